// SPDX-License-Identifier: Apache-2.0
#include "runtime/resolver_relay.h"

#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>

#include "agent/protocol/messages.h"
#include "base/file.h"
#include "base/format.h"
#include "base/unix_socket.h"
#include "runtime/network/namespace.h"
#include "vmm/api/confined_process.h"

namespace kiln::runtime {
namespace {

constexpr int64_t kFirstByteMs = 10'000;
// The agent ends them sooner.
constexpr int64_t kDatagramsIdleMs = 30'000;
constexpr int64_t kStreamIdleMs = 60'000;
constexpr int kPerTurn = 16;

// A socket belongs to the namespace that the thread is in when it makes it.
Result<UniqueFd> make_socket(int type, int network_namespace) {
  UniqueFd here;
  if (network_namespace >= 0) {
    here = TRY(current_network_namespace());
    TRY(enter_network_namespace(network_namespace));
  }
  UniqueFd fd(socket(AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int failed = errno;
  if (here) TRY(enter_network_namespace(here.get()));
  if (!fd) return sys_error("create a socket", failed);
  return fd;
}

// The only address that this file ever connects to.
Result<UniqueFd> connect_resolver(int type, const NameServer& server) {
  UniqueFd fd = TRY(make_socket(type, server.network_namespace));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(server.address);
  address.sin_port = htons(protocol::kResolverNamePort);
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 &&
      errno != EINPROGRESS)
    return sys_error("connect to the name server");
  return fd;
}

}  // namespace

Result<std::unique_ptr<ResolverRelay>> ResolverRelay::listen(EventLoop& loop,
                                                             const std::string& vsock_path,
                                                             NameServer server) {
  std::unique_ptr<ResolverRelay> relay(new ResolverRelay(loop, server));
  ResolverRelay* self = relay.get();
  const std::string socket = fmt::format("{}_{}", vsock_path, protocol::kResolverPort);
  UniqueFd listener = TRY(listen_unix(socket, SOCK_STREAM | SOCK_NONBLOCK));
  TRY(vmm::admit_confined(socket));
  self->acceptor_ = TRY(Acceptor::create(
      loop, std::move(listener), [self](UniqueFd guest) { self->take(std::move(guest)); },
      [self](const Error& error) { self->complain(error); }));
  return relay;
}

ResolverRelay::~ResolverRelay() {
  while (!connections_.empty()) drop(connections_.begin()->first);
}

void ResolverRelay::complain(const Error& error) {
  if (complaints_.allow()) log_warning("carry a guest's query: {}, ignoring", error.message);
}

void ResolverRelay::take(UniqueFd guest) {
  if (connections_.size() >= kMaxConnections) return;  // closed
  const uint64_t id = next_id_++;
  if (const auto watched =
          loop_.add_fd(guest.get(), EPOLLIN, [this, id](uint32_t) { read_first(id); });
      !watched)
    return complain(watched.error());
  Connection& connection = connections_[id];
  connection.guest = std::move(guest);
  expire(id, connection, kFirstByteMs);
}

void ResolverRelay::read_first(uint64_t id) {
  char kind = 0;  // guest-controlled
  const ssize_t got = recv(connections_.at(id).guest.get(), &kind, 1, MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got != 1) return drop(id);
  if (const auto begun = begin(id, kind); !begun) {
    complain(begun.error());
    drop(id);
  }
}

Result<void> ResolverRelay::begin(uint64_t id, char kind) {
  Connection& connection = connections_.at(id);
  loop_.cancel_timer(connection.timer);
  loop_.remove_fd(connection.guest.get());
  UniqueFd guest = std::move(connection.guest);
  if (kind == protocol::kResolverDatagrams)
    return begin_datagrams(id, connection, std::move(guest));
  if (kind != protocol::kResolverStream)
    return invalid_argument("a first byte that is neither of datagrams nor of a stream");
  connection.bridge =
      TRY(SocketBridge::create(loop_, std::move(guest), TRY(connect_resolver(SOCK_STREAM, server_)),
                               kStreamIdleMs, [this, id] { drop(id); }));
  return {};
}

Result<void> ResolverRelay::begin_datagrams(uint64_t id, Connection& connection, UniqueFd guest) {
  UniqueFd datagrams = TRY(connect_resolver(SOCK_DGRAM, server_));
  connection.frames = TRY(FrameConnection::create(
      loop_, std::move(guest), protocol::kMaxDatagramBytes,
      [this, id](const std::string& datagram) { ask(id, datagram); },
      [this, id](const Error&) { drop(id); }));
  TRY(loop_.add_fd(datagrams.get(), EPOLLIN, [this, id](uint32_t) { take_answers(id); }));
  connection.datagrams = std::move(datagrams);
  expire(id, connection, kDatagramsIdleMs);
  return {};
}

void ResolverRelay::ask(uint64_t id, const std::string& datagram) {
  Connection& connection = connections_.at(id);
  const auto send_once = [&] {
    return send(connection.datagrams.get(), datagram.data(), datagram.size(),
                MSG_DONTWAIT | MSG_NOSIGNAL);
  };
  // The first may report that nobody listened to an earlier one. It may get lost, as any datagram.
  if (send_once() < 0 && errno == ECONNREFUSED) send_once();
  expire(id, connection, kDatagramsIdleMs);
}

void ResolverRelay::take_answers(uint64_t id) {
  static std::array<char, protocol::kMaxDatagramBytes> buffer;
  Connection& connection = connections_.at(id);
  expire(id, connection, kDatagramsIdleMs);
  for (int i = 0; i < kPerTurn; ++i) {
    const ssize_t got =
        recv(connection.datagrams.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    // Also ECONNREFUSED, which reports that nobody listens, once for each query.
    if (got < 0) return;
    // What the guest does not take in time is lost.
    if (connection.frames->sent_everything())
      connection.frames->send({buffer.data(), static_cast<size_t>(got)});
  }
}

void ResolverRelay::expire(uint64_t id, Connection& connection, int64_t milliseconds) {
  loop_.cancel_timer(connection.timer);
  connection.timer = loop_.add_timer(milliseconds, [this, id] { drop(id); });
}

void ResolverRelay::drop(uint64_t id) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  Connection& connection = found->second;
  loop_.cancel_timer(connection.timer);
  if (connection.guest) loop_.remove_fd(connection.guest.get());
  if (connection.datagrams) loop_.remove_fd(connection.datagrams.get());
  connections_.erase(found);
}

}  // namespace kiln::runtime
