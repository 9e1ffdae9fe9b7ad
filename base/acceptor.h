// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/unique_fd.h"

namespace kiln {

// Takes the connections of a listening stream socket as they come, a few a turn, so that the loop's
// others have theirs. Where that fails, for want of descriptors as a rule, it pauses: whoever waits
// in the queue would wake the loop again at once.
class Acceptor {
 public:
  // Non-blocking and close-on-exec.
  using ConnectionCallback = std::function<void(UniqueFd connection)>;
  using ErrorCallback = std::function<void(const Error& error)>;

  // `listener`: non-blocking. Neither callback may destroy the acceptor.
  static Result<std::unique_ptr<Acceptor>> create(EventLoop& loop, UniqueFd listener,
                                                  ConnectionCallback on_connection,
                                                  ErrorCallback on_error);
  ~Acceptor();
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;

  // Whoever waits now, without a turn of the loop.
  void accept_waiting();

 private:
  Acceptor(EventLoop& loop, UniqueFd listener, ConnectionCallback on_connection,
           ErrorCallback on_error)
      : loop_(loop),
        listener_(std::move(listener)),
        on_connection_(std::move(on_connection)),
        on_error_(std::move(on_error)) {}
  Result<void> watch();
  void accept(int most);
  void pause();

  EventLoop& loop_;
  UniqueFd listener_;
  ConnectionCallback on_connection_;
  ErrorCallback on_error_;
  EventLoop::TimerId pause_timer_ = 0;
};

}  // namespace kiln
