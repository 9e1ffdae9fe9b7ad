// SPDX-License-Identifier: Apache-2.0
// What the agent and a process that it has just made say to each other until the process execs. A
// container may get at such a process, so what the agent reads here is untrusted.
#pragma once

#include <sys/types.h>

#include <optional>
#include <utility>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::agent {

enum class ChildSays : char {
  kPid = 'p',        // the helper has made the process
  kReady = 'r',      // set up; with the pty's master, if there is one
  kExecuting = 'x',  // only execve is left
  kFailed = 'e',     // with the error; it ends now
  kClosed = 0,       // it has ended, or execve has succeeded
};

struct ChildMessage {
  ChildSays what = ChildSays::kClosed;
  pid_t pid = -1;
  UniqueFd fd;
  Error error;
};

// One end each. SOCK_SEQPACKET: a message is a message.
class ChildChannel {
 public:
  ChildChannel() = default;
  static Result<std::pair<ChildChannel, ChildChannel>> create();

  int fd() const { return socket_.get(); }
  explicit operator bool() const { return socket_.valid(); }
  void close() { socket_.reset(); }

  // The child's.
  Result<void> say(ChildSays what, int fd = -1) const;
  Result<void> say_pid(pid_t pid) const;
  void say_error(const Error& error) const;  // failing to is no matter: it ends anyway
  // Waits for go_on(). An error: the agent does not want us any more.
  Result<void> wait_for_agent() const;

  // The agent's. kDeadlineExceeded after `timeout_ms`: a container can stop a process that enters
  // it.
  Result<ChildMessage> receive(int timeout_ms) const;
  // The same, and it must be `wanted`; the error that the child says is returned.
  Result<ChildMessage> expect(ChildSays wanted, int timeout_ms) const;
  Result<void> go_on() const;

 private:
  explicit ChildChannel(UniqueFd socket) : socket_(std::move(socket)) {}
  UniqueFd socket_;
};

}  // namespace kiln::agent
