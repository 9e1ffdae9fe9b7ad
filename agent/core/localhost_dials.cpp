// SPDX-License-Identifier: Apache-2.0
#include "agent/core/localhost_dials.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/format.h"

namespace kiln::agent {
namespace {

constexpr int kFamilies[] = {AF_INET, AF_INET6};

int connect_to(int fd, int family, uint16_t port) {
  if (family == AF_INET) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    return connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  }
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_addr = in6addr_loopback;
  address.sin6_port = htons(port);
  return connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
}

// Writable once it is there.
Result<UniqueFd> begin_connect(int family, uint16_t port) {
  UniqueFd fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return sys_error("create a socket");
  // Whoever writes has waited already: on the way here.
  const int on = 1;
  setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (connect_to(fd.get(), family, port) != 0 && errno != EINPROGRESS) return sys_error("connect");
  return fd;
}

}  // namespace

LocalhostDials::~LocalhostDials() {
  for (const auto& [id, dial] : dials_) {
    loop_.cancel_timer(dial.timer);
    if (dial.socket) loop_.remove_fd(dial.socket.get());
  }
}

void LocalhostDials::dial(uint16_t port, Done done) {
  if (dials_.size() >= kMaxDials)
    return done(make_error(ErrorKind::kResourceExhausted, "too many connections are being made"));
  const uint64_t id = next_id_++;
  Dial& dial = dials_[id];
  dial.port = port;
  dial.done = std::move(done);
  dial.timer = loop_.add_timer(timeout_ms_, [this, id] {
    finish(id, make_error(ErrorKind::kDeadlineExceeded, "no answer in time"));
  });
  try_next(id, {});
}

void LocalhostDials::try_next(uint64_t id, Error last) {
  Dial& dial = dials_.at(id);
  while (dial.tried < std::size(kFamilies)) {
    auto socket = begin_connect(kFamilies[dial.tried++], dial.port);
    if (socket) {
      auto watched = loop_.add_fd(socket->get(), EPOLLOUT, [this, id](uint32_t) { look(id); });
      if (!watched) return finish(id, tl::unexpected(std::move(watched.error())));
      dial.socket = std::move(*socket);
      return;
    }
    // That the guest has no IPv6 says nothing about the server.
    if (dial.tried == 1) last = std::move(socket.error());
  }
  finish(id, tl::unexpected(std::move(last)));
}

void LocalhostDials::look(uint64_t id) {
  Dial& dial = dials_.at(id);
  loop_.remove_fd(dial.socket.get());
  UniqueFd socket = std::move(dial.socket);
  int failed = 0;
  socklen_t size = sizeof failed;
  if (getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &failed, &size) != 0) failed = errno;
  if (failed == 0) return finish(id, std::move(socket));
  socket.reset();
  try_next(id, sys_error("connect", failed).value());
}

void LocalhostDials::finish(uint64_t id, Result<UniqueFd> outcome) {
  Dial dial = std::move(dials_.at(id));
  dials_.erase(id);
  loop_.cancel_timer(dial.timer);
  if (dial.socket) loop_.remove_fd(dial.socket.get());
  dial.done(wrap(std::move(outcome), fmt::format("port {} of the pod's localhost", dial.port)));
}

}  // namespace kiln::agent
