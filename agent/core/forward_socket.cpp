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

constexpr int64_t kDialTimeoutMs = 5000;

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
  ForwardSocket* self = made.get();
  self->acceptor_ = TRY(Acceptor::create(
      loop, TRY(self->bind(socket)), [self](UniqueFd client) { self->take(std::move(client)); },
      [self](const Error& error) { self->complain(error); }));
  return made;
}

Result<UniqueFd> ForwardSocket::bind(const protocol::ForwardedSocket& socket) {
  UniqueFd listener = TRY(listen_unix(path_, SOCK_STREAM | SOCK_NONBLOCK));
  if (chown(path_.c_str(), socket.uid, socket.gid) != 0)
    return sys_error(fmt::format("chown `{}`", path_));
  if (chmod(path_.c_str(), socket.mode) != 0) return sys_error(fmt::format("chmod `{}`", path_));
  return listener;
}

void ForwardSocket::complain(const Error& error) {
  if (complaints_.allow())
    log_warning("carry a connection to the host: {}, ignoring", error.message);
}

void ForwardSocket::take(UniqueFd client) {
  if (connections_.size() >= kMaxConnections) return;  // closed: the client sees it at once
  if (const auto added = add(std::move(client)); !added) complain(added.error());
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
  acceptor_->accept_waiting();
  return std::all_of(connections_.begin(), connections_.end(), [](const auto& item) {
    return item.second.bridge && item.second.bridge->one_has_ended();
  });
}

}  // namespace kiln::agent
