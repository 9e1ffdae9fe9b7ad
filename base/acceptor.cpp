// SPDX-License-Identifier: Apache-2.0
#include "base/acceptor.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/unix_socket.h"

namespace kiln {
namespace {

constexpr int kPerTurn = 16;
constexpr int64_t kPauseMs = 100;

}  // namespace

Result<std::unique_ptr<Acceptor>> Acceptor::create(EventLoop& loop, UniqueFd listener,
                                                   ConnectionCallback on_connection,
                                                   ErrorCallback on_error) {
  std::unique_ptr<Acceptor> made(
      new Acceptor(loop, std::move(listener), std::move(on_connection), std::move(on_error)));
  TRY(made->watch());
  return made;
}

Acceptor::~Acceptor() {
  loop_.cancel_timer(pause_timer_);
  loop_.remove_fd(listener_.get());
}

Result<void> Acceptor::watch() {
  return loop_.add_fd(listener_.get(), EPOLLIN, [this](uint32_t) { accept(kPerTurn); });
}

void Acceptor::accept_waiting() { accept(SOMAXCONN); }

void Acceptor::accept(int most) {
  for (int i = 0; i < most; ++i) {
    auto connection = accept_unix(listener_.get(), SOCK_NONBLOCK);
    if (connection) {
      on_connection_(std::move(*connection));
      continue;
    }
    if (connection.error().sys_errno == EAGAIN) return;
    on_error_(connection.error());
    return pause();
  }
}

void Acceptor::pause() {
  loop_.remove_fd(listener_.get());
  loop_.cancel_timer(pause_timer_);
  pause_timer_ = loop_.add_timer(kPauseMs, [this] {
    if (const auto again = watch(); !again) on_error_(again.error());
  });
}

}  // namespace kiln
