// SPDX-License-Identifier: Apache-2.0
#include "agent/core/resolver.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>

#include "agent/protocol/messages.h"
#include "base/file.h"
#include "base/format.h"

namespace kiln::agent {
namespace {

constexpr int kBacklog = 32;
constexpr int kPerTurn = 16;  // datagrams and connections; then the others have their turn
constexpr int64_t kDialTimeoutMs = 5000;
// C libraries ask again after five seconds, from the same port.
constexpr int64_t kUnansweredMs = 15'000;
constexpr int64_t kAnsweredMs = 2000;
constexpr int64_t kStreamIdleMs = 30'000;
constexpr size_t kMaxWaiting = 4;  // two questions, asked twice

uint64_t key_of(const sockaddr_in& address) {
  return uint64_t{address.sin_addr.s_addr} << 16 | address.sin_port;
}

Result<UniqueFd> bound_socket(int type, const sockaddr_in& address) {
  UniqueFd fd(socket(AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return sys_error("create a socket");
  const int on = 1;
  // A socket that waits for its end must not be in the way of a new one.
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return sys_error(fmt::format("bind {} port {}", type == SOCK_DGRAM ? "UDP" : "TCP",
                                 ntohs(address.sin_port)));
  return fd;
}

}  // namespace

Result<std::unique_ptr<Resolver>> Resolver::listen(EventLoop& loop, const sockaddr_in& address,
                                                   Dialer dial) {
  std::unique_ptr<Resolver> resolver(new Resolver(loop, std::move(dial)));
  Resolver* self = resolver.get();
  self->datagrams_ = TRY(bound_socket(SOCK_DGRAM, address));
  self->listener_ = TRY(bound_socket(SOCK_STREAM, address));
  if (::listen(self->listener_.get(), kBacklog) != 0) return sys_error("listen for queries");
  TRY(loop.add_fd(self->datagrams_.get(), EPOLLIN, [self](uint32_t) { self->take_datagrams(); }));
  TRY(loop.add_fd(self->listener_.get(), EPOLLIN, [self](uint32_t) { self->accept_streams(); }));
  return resolver;
}

Resolver::~Resolver() {
  if (datagrams_) loop_.remove_fd(datagrams_.get());
  if (listener_) loop_.remove_fd(listener_.get());
  for (const auto& [key, client] : clients_) loop_.cancel_timer(client.idle_timer);
}

void Resolver::complain(const Error& error) {
  if (complaints_.allow()) log_warning("carry a query: {}, ignoring", error.message);
}

void Resolver::take_datagrams() {
  static std::array<char, protocol::kMaxDatagramBytes> buffer;
  for (int i = 0; i < kPerTurn; ++i) {
    sockaddr_in from{};
    socklen_t size = sizeof from;
    const ssize_t got = retry_eintr([&] {
      return recvfrom(datagrams_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT,
                      reinterpret_cast<sockaddr*>(&from), &size);
    });
    if (got < 0) return;
    // An empty one is no query.
    if (got > 0) take_datagram(from, {buffer.data(), static_cast<size_t>(got)});
  }
}

void Resolver::take_datagram(const sockaddr_in& from, std::string_view datagram) {
  const ClientKey key = key_of(from);
  const auto found = clients_.find(key);
  Client* client = found == clients_.end() ? nullptr : &found->second;
  if (client == nullptr) {
    auto added = add_client(key, from);
    if (!added) return complain(added.error());
    client = *added;
  }
  touch(key, *client, kUnansweredMs);
  if (!client->connection) {
    if (client->waiting.size() < kMaxWaiting) client->waiting.emplace_back(datagram);
  } else if (client->connection->sent_everything()) {
    // Otherwise it is lost, as datagrams are when nobody takes them.
    client->connection->send(datagram);
  }
}

Result<Resolver::Client*> Resolver::add_client(ClientKey key, const sockaddr_in& from) {
  if (clients_.size() >= kMaxClients) drop_oldest_client();
  Client client;
  client.address = from;
  client.dial = TRY(HostDial::start(
      loop_, TRY(dial_()), std::string(1, protocol::kResolverDatagrams), kDialTimeoutMs,
      [this, key](Result<UniqueFd> connection) { client_connected(key, std::move(connection)); }));
  return &clients_.emplace(key, std::move(client)).first->second;
}

void Resolver::client_connected(ClientKey key, Result<UniqueFd> connection) {
  if (!connection) {
    complain(connection.error());
    return drop_client(key);
  }
  auto framed = FrameConnection::create(
      loop_, std::move(*connection), protocol::kMaxDatagramBytes,
      [this, key](const std::string& datagram) { answer(key, datagram); },
      [this, key](const Error&) { drop_client(key); });
  if (!framed) {
    complain(framed.error());
    return drop_client(key);
  }
  Client& client = clients_.at(key);
  client.connection = std::move(*framed);
  client.dial.reset();
  for (const std::string& datagram : client.waiting) client.connection->send(datagram);
  client.waiting.clear();
}

void Resolver::answer(ClientKey key, const std::string& datagram) {
  Client& client = clients_.at(key);
  // Whether it arrives is no concern of a name server's.
  sendto(datagrams_.get(), datagram.data(), datagram.size(), MSG_DONTWAIT | MSG_NOSIGNAL,
         reinterpret_cast<const sockaddr*>(&client.address), sizeof client.address);
  touch(key, client, kAnsweredMs);
}

void Resolver::touch(ClientKey key, Client& client, int64_t idle_ms) {
  client.last_use = next_use_++;
  loop_.cancel_timer(client.idle_timer);
  client.idle_timer = loop_.add_timer(idle_ms, [this, key] { drop_client(key); });
}

void Resolver::drop_client(ClientKey key) {
  const auto found = clients_.find(key);
  if (found == clients_.end()) return;
  loop_.cancel_timer(found->second.idle_timer);
  clients_.erase(found);
}

void Resolver::drop_oldest_client() {
  const auto oldest = std::min_element(
      clients_.begin(), clients_.end(),
      [](const auto& a, const auto& b) { return a.second.last_use < b.second.last_use; });
  if (oldest != clients_.end()) drop_client(oldest->first);
}

void Resolver::accept_streams() {
  for (int i = 0; i < kPerTurn; ++i) {
    UniqueFd client(retry_eintr(
        [&] { return accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK); }));
    if (!client) return;
    if (streams_.size() >= kMaxStreams) continue;  // closed: the client sees it at once
    if (const auto added = add_stream(std::move(client)); !added) complain(added.error());
  }
}

Result<void> Resolver::add_stream(UniqueFd client) {
  const uint64_t id = next_stream_++;
  Stream stream;
  stream.client = std::move(client);
  stream.dial = TRY(HostDial::start(
      loop_, TRY(dial_()), std::string(1, protocol::kResolverStream), kDialTimeoutMs,
      [this, id](Result<UniqueFd> connection) { stream_connected(id, std::move(connection)); }));
  streams_.emplace(id, std::move(stream));
  return {};
}

void Resolver::stream_connected(uint64_t id, Result<UniqueFd> connection) {
  Stream& stream = streams_.at(id);
  if (!connection) {
    complain(connection.error());
    return drop_stream(id);
  }
  auto bridge = SocketBridge::create(loop_, std::move(stream.client), std::move(*connection),
                                     kStreamIdleMs, [this, id] { drop_stream(id); });
  if (!bridge) {
    complain(bridge.error());
    return drop_stream(id);
  }
  stream.bridge = std::move(*bridge);
  stream.dial.reset();
}

void Resolver::drop_stream(uint64_t id) { streams_.erase(id); }

}  // namespace kiln::agent
