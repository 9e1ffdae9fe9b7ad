// SPDX-License-Identifier: Apache-2.0
#include "agent/core/forward_socket.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>

#include "base/format.h"
#include "base/unix_socket.h"

namespace kiln::agent {
namespace {

constexpr int kPerTurn = 16;  // then the others have their turn
constexpr int64_t kDialTimeoutMs = 5000;
constexpr int64_t kAcceptPauseMs = 100;

}  // namespace

ForwardSocket::ForwardSocket(EventLoop& loop, TemporaryDirectory directory, std::string token,
                             Dialer dial)
    : loop_(loop),
      directory_(std::move(directory)),
      path_(directory_.path() + "/socket"),
      token_(std::move(token)),
      dial_(std::move(dial)) {}

Result<std::unique_ptr<ForwardSocket>> ForwardSocket::listen(
    EventLoop& loop, const std::string& parent, const protocol::ForwardedSocket& socket,
    Dialer dial) {
  TemporaryDirectory directory = TRY(TemporaryDirectory::create(parent, "forward-"));
  std::unique_ptr<ForwardSocket> made(
      new ForwardSocket(loop, std::move(directory), socket.token, std::move(dial)));
  TRY(made->bind(socket));
  TRY(made->watch_listener());
  return made;
}

Result<void> ForwardSocket::bind(const protocol::ForwardedSocket& socket) {
  listener_ = TRY(listen_unix(path_, SOCK_STREAM | SOCK_NONBLOCK));
  if (chown(path_.c_str(), socket.uid, socket.gid) != 0)
    return sys_error(fmt::format("chown `{}`", path_));
  if (chmod(path_.c_str(), socket.mode) != 0) return sys_error(fmt::format("chmod `{}`", path_));
  return {};
}

ForwardSocket::~ForwardSocket() {
  loop_.cancel_timer(pause_timer_);
  if (listener_) loop_.remove_fd(listener_.get());
}

Result<void> ForwardSocket::watch_listener() {
  return loop_.add_fd(listener_.get(), EPOLLIN, [this](uint32_t) { accept_some(); });
}

void ForwardSocket::complain(const Error& error) {
  if (complaints_.allow())
    log_warning("carry a connection to the host: {}, ignoring", error.message);
}

// False: nobody waits.
bool ForwardSocket::accept_one() {
  auto client = accept_unix(listener_.get(), SOCK_NONBLOCK);
  if (!client) {
    if (client.error().sys_errno == EAGAIN) return false;
    complain(client.error());
    pause();
    return false;
  }
  if (connections_.size() >= kMaxConnections) return true;  // closed: the client sees it at once
  if (const auto added = add(std::move(*client)); !added) complain(added.error());
  return true;
}

void ForwardSocket::accept_some() {
  for (int i = 0; i < kPerTurn; ++i)
    if (!accept_one()) return;
}

// Out of descriptors, as a rule: who waits in the listener's queue would wake us again at once.
void ForwardSocket::pause() {
  loop_.remove_fd(listener_.get());
  loop_.cancel_timer(pause_timer_);
  pause_timer_ = loop_.add_timer(kAcceptPauseMs, [this] {
    if (const auto again = watch_listener(); !again) complain(again.error());
  });
}

Result<void> ForwardSocket::add(UniqueFd client) {
  const uint64_t id = next_id_++;
  Connection connection;
  connection.client = std::move(client);
  connection.dial =
      TRY(HostDial::start(loop_, TRY(dial_()), token_, kDialTimeoutMs,
                          [this, id](Result<UniqueFd> host) { connected(id, std::move(host)); }));
  connections_.emplace(id, std::move(connection));
  return {};
}

void ForwardSocket::connected(uint64_t id, Result<UniqueFd> host) {
  Connection& connection = connections_.at(id);
  auto bridge =
      host ? SocketBridge::create(loop_, std::move(connection.client), std::move(*host),
                                  SocketBridge::kNeverIdle, [this, id] { connections_.erase(id); })
           : tl::unexpected(std::move(host.error()));
  if (!bridge) {
    complain(bridge.error());
    connections_.erase(id);
    return;
  }
  connection.bridge = std::move(*bridge);
  connection.dial.reset();
}

uint64_t ForwardSocket::bytes_copied() const {
  return std::accumulate(connections_.begin(), connections_.end(), uint64_t{0},
                         [](uint64_t sum, const auto& item) {
                           const auto& bridge = item.second.bridge;
                           return sum + (bridge ? bridge->bytes_copied() : 0);
                         });
}

bool ForwardSocket::settle() {
  for (int i = 0; i < SOMAXCONN && accept_one(); ++i) {
  }
  return std::all_of(connections_.begin(), connections_.end(), [](const auto& item) {
    return item.second.bridge && item.second.bridge->one_has_ended();
  });
}

}  // namespace kiln::agent
