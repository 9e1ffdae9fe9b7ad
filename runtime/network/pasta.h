// SPDX-License-Identifier: Apache-2.0
// pasta(1), of the package passt: a network namespace's way to the host's networks.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/process.h"
#include "base/unique_fd.h"
#include "runtime/network/namespace_holder.h"

namespace kiln::runtime {

// Makes an interface in a namespace, with the addresses and routes of the host's own, and does what
// comes out of it with ordinary sockets of the host. It parses packets of the guest: it is
// privileged in the holder's namespaces alone, and confines itself. Owned by the monitor, used by
// its only thread, with which it dies; that thread is in the network namespace.
class Pasta {
 public:
  static constexpr const char* kInterface = "eth0";

  struct Options {
    std::string program;
    int host_namespace = -1;  // whose sockets it uses; borrowed
  };
  // Once, with how it ended.
  using EndedCallback = std::function<void(Error reason)>;

  static Result<std::unique_ptr<Pasta>> start(EventLoop& loop, const Options& options,
                                              NamespaceHolder holder, EndedCallback on_ended);
  ~Pasta();  // ends it
  Pasta(const Pasta&) = delete;
  Pasta& operator=(const Pasta&) = delete;

  // The interface is there. Looked at every few milliseconds, by a timer of the loop, until it is.
  bool ready() const { return ready_; }
  pid_t pid() const { return process_.pid; }

 private:
  Pasta(EventLoop& loop, NamespaceHolder holder, EndedCallback on_ended)
      : loop_(loop), holder_(std::move(holder)), on_ended_(std::move(on_ended)) {}
  void look_for_interface();
  void read_messages();
  void stop_reading();
  void ended();

  EventLoop& loop_;
  std::optional<NamespaceHolder> holder_;  // until it has entered
  EndedCallback on_ended_;
  ChildProcess process_;
  UniqueFd messages_;  // its standard error
  std::string last_message_;
  bool ready_ = false;
  EventLoop::TimerId timer_ = 0;
};

}  // namespace kiln::runtime
