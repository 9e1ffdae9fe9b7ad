// SPDX-License-Identifier: Apache-2.0
// Two stream sockets, joined.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/relay.h"
#include "base/unique_fd.h"

namespace kiln {

// What comes out of one goes into the other. Each direction ends by itself, with a half-close. It
// has ended when both directions have, or, if it is to, when no byte has moved for a while.
class SocketBridge {
 public:
  // Once; it may destroy the bridge.
  using EndedCallback = std::function<void()>;

  static constexpr int64_t kNeverIdle = 0;

  // Both may still be connecting. Idle for `idle_ms` to twice that, it ends.
  static Result<std::unique_ptr<SocketBridge>> create(EventLoop& loop, UniqueFd one, UniqueFd other,
                                                      int64_t idle_ms, EndedCallback on_ended);
  ~SocketBridge();
  SocketBridge(const SocketBridge&) = delete;
  SocketBridge& operator=(const SocketBridge&) = delete;

  // Everything that came out of `one` has gone into the other, and no more will come.
  bool one_has_ended() const { return there_->done(); }
  uint64_t bytes_copied() const { return there_->bytes_copied() + back_->bytes_copied(); }

 private:
  SocketBridge(EventLoop& loop, int64_t idle_ms, EndedCallback on_ended)
      : loop_(loop), idle_ms_(idle_ms), on_ended_(std::move(on_ended)) {}
  void watch_idleness();
  void direction_ended();
  void end();

  EventLoop& loop_;
  int64_t idle_ms_;
  EndedCallback on_ended_;
  std::unique_ptr<Relay> there_;
  std::unique_ptr<Relay> back_;
  uint64_t bytes_seen_ = 0;
  EventLoop::TimerId timer_ = 0;
};

}  // namespace kiln
