// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "agent/core/reaper.h"
#include "base/error.h"
#include "base/event_loop.h"
#include "base/unique_fd.h"

namespace kiln::agent {

// A connection to a Unix socket in a container's files, made by a child: what the path leads to is
// the container's to choose, and may be a file system of its own that never answers.
class ContainerDial {
 public:
  struct Context {
    EventLoop& loop;
    Reaper& reaper;
    int64_t timeout_ms;
  };
  struct Callbacks {
    std::function<void(Result<UniqueFd> socket)> on_done;  // once; non-blocking
    std::function<void()> on_gone;  // the child has ended: may destroy the dial
  };

  // `path`: symbolic links and `..` stay below `root_fd`.
  static Result<std::unique_ptr<ContainerDial>> start(const Context& context, int root_fd,
                                                      const std::string& path, Callbacks callbacks);
  // Gives up, without calling back.
  ~ContainerDial();
  ContainerDial(const ContainerDial&) = delete;
  ContainerDial& operator=(const ContainerDial&) = delete;

 private:
  ContainerDial(const Context& context, Callbacks callbacks)
      : context_(context), callbacks_(std::move(callbacks)) {}
  Result<UniqueFd> receive();
  void expire();
  void finish(Result<UniqueFd> outcome);

  Context context_;
  Callbacks callbacks_;
  UniqueFd answers_;
  pid_t child_ = -1;
  EventLoop::TimerId timer_ = 0;
};

}  // namespace kiln::agent
