// SPDX-License-Identifier: Apache-2.0
#include "base/socket_bridge.h"

#include <fcntl.h>

namespace kiln {

Result<std::unique_ptr<SocketBridge>> SocketBridge::create(EventLoop& loop, UniqueFd one,
                                                           UniqueFd other, int64_t idle_ms,
                                                           EndedCallback on_ended) {
  // A relay owns its ends, and epoll knows a descriptor once.
  UniqueFd one_again(fcntl(one.get(), F_DUPFD_CLOEXEC, 3));
  UniqueFd other_again(fcntl(other.get(), F_DUPFD_CLOEXEC, 3));
  if (!one_again || !other_again) return sys_error("duplicate a socket");
  std::unique_ptr<SocketBridge> bridge(new SocketBridge(loop, idle_ms, std::move(on_ended)));
  SocketBridge* self = bridge.get();
  const auto ended = [self] { self->direction_ended(); };
  self->there_ = TRY(Relay::create(loop, std::move(one), std::move(other), ended));
  self->back_ = TRY(Relay::create(loop, std::move(other_again), std::move(one_again), ended));
  if (idle_ms != kNeverIdle) self->watch_idleness();
  return bridge;
}

SocketBridge::~SocketBridge() { loop_.cancel_timer(timer_); }

void SocketBridge::watch_idleness() {
  timer_ = loop_.add_timer(idle_ms_, [this] {
    const uint64_t bytes = bytes_copied();
    if (bytes == bytes_seen_) return end();
    bytes_seen_ = bytes;
    watch_idleness();
  });
}

void SocketBridge::direction_ended() {
  if (there_->done() && back_->done()) end();
}

void SocketBridge::end() {
  const EndedCallback on_ended = std::move(on_ended_);
  on_ended_ = nullptr;
  if (on_ended) on_ended();
}

}  // namespace kiln
