// SPDX-License-Identifier: Apache-2.0
// Opening a standard stream of a process in the guest.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "agent/protocol/messages.h"
#include "base/error.h"
#include "base/event_loop.h"
#include "base/unique_fd.h"

namespace kiln::runtime {

// Dials the VM's vsock socket, asks for the stream port as Firecracker documents ("CONNECT port\n",
// answer "OK ...\n"), names the stream and waits for the agent's answer. Destroying it gives up
// without calling back. The callback may destroy it.
class StreamDialer {
 public:
  // The connected socket, from which nothing of the raw stream has been read.
  using Callback = std::function<void(Result<UniqueFd>)>;

  static Result<std::unique_ptr<StreamDialer>> dial(EventLoop& loop, const std::string& vsock_path,
                                                    const protocol::StreamHeader& header,
                                                    int64_t timeout_ms, Callback callback);
  // The same over a socket that is connected already.
  static Result<std::unique_ptr<StreamDialer>> start(EventLoop& loop, UniqueFd socket,
                                                     const protocol::StreamHeader& header,
                                                     int64_t timeout_ms, Callback callback);
  ~StreamDialer();
  StreamDialer(const StreamDialer&) = delete;
  StreamDialer& operator=(const StreamDialer&) = delete;

 private:
  enum class Stage { kGreeting, kReplySize, kReply };

  StreamDialer(EventLoop& loop, UniqueFd socket, Callback callback)
      : loop_(loop), socket_(std::move(socket)), callback_(std::move(callback)) {}
  void read_some();
  Result<bool> advance();  // true: the agent has accepted the stream
  Result<bool> advance_greeting();
  void finish(Result<void> outcome);

  EventLoop& loop_;
  UniqueFd socket_;
  Callback callback_;
  std::string header_frame_;
  std::string stream_name_;
  std::string received_;
  size_t wanted_ = 1;  // bytes that complete the current step
  Stage stage_ = Stage::kGreeting;
  EventLoop::TimerId timer_ = 0;
};

}  // namespace kiln::runtime
