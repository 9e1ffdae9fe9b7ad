// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/log.h"
#include "base/unique_fd.h"

namespace kiln::agent {

// The datagram socket of sd_notify(3), in a directory of its own that is mounted into a container.
// What arrives is the container's word: it is bounded here, and descriptors that come with it are
// closed unseen, which is all that sd_notify_barrier(3) waits for.
class NotifySocket {
 public:
  using LinesCallback = std::function<void(std::vector<std::string> lines)>;

  // Makes a directory below `parent`, and the socket `name` in it.
  static Result<std::unique_ptr<NotifySocket>> create(EventLoop& loop, const std::string& parent,
                                                      const std::string& name,
                                                      LinesCallback on_lines);
  ~NotifySocket();  // removes both
  NotifySocket(const NotifySocket&) = delete;
  NotifySocket& operator=(const NotifySocket&) = delete;

  const std::string& directory() const { return directory_; }

 private:
  NotifySocket(EventLoop& loop, LinesCallback on_lines);
  void read_one();

  EventLoop& loop_;
  LinesCallback on_lines_;
  std::string directory_;
  std::string path_;
  UniqueFd socket_;
  RateLimit limit_;
};

}  // namespace kiln::agent
