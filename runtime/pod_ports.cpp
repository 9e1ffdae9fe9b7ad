// SPDX-License-Identifier: Apache-2.0
#include "runtime/pod_ports.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstddef>

#include "runtime/descriptor_room.h"

namespace kiln::runtime {
namespace {

constexpr int64_t kDialTimeoutMs = 30'000;

// The port that was dialled: the connection's own.
std::string stream_of(int connection) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  static_cast<void>(getsockname(connection, reinterpret_cast<sockaddr*>(&address), &size));
  static_assert(offsetof(sockaddr_in, sin_port) == offsetof(sockaddr_in6, sin6_port));
  return protocol::port_stream(ntohs(reinterpret_cast<const sockaddr_in*>(&address)->sin_port));
}

}  // namespace

Result<std::unique_ptr<PodPorts>> PodPorts::open(EventLoop& loop, const std::string& vsock_path,
                                                 const std::string& pod_id) {
  std::unique_ptr<PodPorts> ports(new PodPorts(TRY(LocalhostTaker::start())));
  std::vector<UniqueFd> listeners = ports->taker_.take_listeners();
  make_room_for_connections(listeners.size() * PassedListener::kMaxConnections);
  for (UniqueFd& listener : listeners) {
    PassedListener::Options options{
        vsock_path, {pod_id, "", "localhost"}, kDialTimeoutMs, stream_of};
    ports->listeners_.push_back(
        TRY(PassedListener::create(loop, std::move(listener), std::move(options))));
  }
  return ports;
}

void PodPorts::hold(bool held) {
  for (const auto& listener : listeners_) listener->hold(held);
}

}  // namespace kiln::runtime
