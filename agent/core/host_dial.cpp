// SPDX-License-Identifier: Apache-2.0
#include "agent/core/host_dial.h"

#include <sys/epoll.h>
#include <sys/socket.h>

namespace kiln::agent {

Result<std::unique_ptr<HostDial>> HostDial::start(EventLoop& loop, UniqueFd connecting,
                                                  std::string first, int64_t timeout_ms,
                                                  Callback callback) {
  std::unique_ptr<HostDial> dial(
      new HostDial(loop, std::move(connecting), std::move(first), std::move(callback)));
  HostDial* self = dial.get();
  TRY(loop.add_fd(self->connecting_.get(), EPOLLOUT,
                  [self](uint32_t) { self->finish(self->begin()); }));
  self->timer_ = loop.add_timer(timeout_ms, [self] {
    self->finish(make_error(ErrorKind::kDeadlineExceeded, "no connection in time"));
  });
  return dial;
}

HostDial::~HostDial() {
  loop_.cancel_timer(timer_);
  if (connecting_) loop_.remove_fd(connecting_.get());
}

Result<void> HostDial::begin() {
  int failed = 0;
  socklen_t size = sizeof failed;
  if (getsockopt(connecting_.get(), SOL_SOCKET, SO_ERROR, &failed, &size) != 0)
    return sys_error("look at a connection");
  if (failed != 0) return sys_error("connect to the host", failed);
  if (send(connecting_.get(), first_.data(), first_.size(), MSG_NOSIGNAL | MSG_DONTWAIT) !=
      static_cast<ssize_t>(first_.size()))
    return sys_error("send the first bytes");
  return {};
}

void HostDial::finish(Result<void> outcome) {
  loop_.cancel_timer(timer_);
  loop_.remove_fd(connecting_.get());
  UniqueFd connection = std::move(connecting_);
  const Callback callback = std::move(callback_);
  if (outcome) return callback(std::move(connection));
  callback(tl::unexpected(std::move(outcome.error())));
}

}  // namespace kiln::agent
