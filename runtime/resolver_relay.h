// SPDX-License-Identifier: Apache-2.0
// The host's end of the guest's name server.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "agent/protocol/messages.h"
#include "base/acceptor.h"
#include "base/error.h"
#include "base/event_loop.h"
#include "base/frame_connection.h"
#include "base/log.h"
#include "base/socket_bridge.h"
#include "base/unique_fd.h"

namespace kiln::runtime {

// Where the name server is, port 53.
struct NameServer {
  uint32_t address = protocol::kResolverAddress;  // IPv4, in the host's byte order
  int network_namespace = -1;                     // borrowed; -1: the thread's own
};

// Carries queries of the guest (agent/protocol/messages.h, kResolverPort) to a name server, and the
// answers back. Owned by the monitor, used by its only thread. Everything in the guest may dial it:
// it reaches that one address, and what it holds is bounded.
class ResolverRelay {
 public:
  // More than the agent has at a time (agent/core/resolver.h): new ones may be seen before the end
  // of others.
  static constexpr size_t kMaxConnections = 128;

  static Result<std::unique_ptr<ResolverRelay>> listen(EventLoop& loop,
                                                       const std::string& vsock_path,
                                                       NameServer server = {});
  ~ResolverRelay();
  ResolverRelay(const ResolverRelay&) = delete;
  ResolverRelay& operator=(const ResolverRelay&) = delete;

  size_t connections() const { return connections_.size(); }

 private:
  struct Connection {
    UniqueFd guest;  // until its first byte has come
    EventLoop::TimerId timer = 0;
    // Of datagrams:
    std::unique_ptr<FrameConnection> frames;
    UniqueFd datagrams;
    // Of a stream:
    std::unique_ptr<SocketBridge> bridge;
  };

  ResolverRelay(EventLoop& loop, NameServer server) : loop_(loop), server_(server) {}
  void take(UniqueFd guest);
  void read_first(uint64_t id);
  Result<void> begin(uint64_t id, char kind);
  Result<void> begin_datagrams(uint64_t id, Connection& connection, UniqueFd guest);
  void ask(uint64_t id, const std::string& datagram);
  void take_answers(uint64_t id);
  void expire(uint64_t id, Connection& connection, int64_t milliseconds);
  void drop(uint64_t id);
  void complain(const Error& error);

  EventLoop& loop_;
  NameServer server_;
  std::unique_ptr<Acceptor> acceptor_;
  std::map<uint64_t, Connection> connections_;
  uint64_t next_id_ = 1;
  RateLimit complaints_{5};
};

}  // namespace kiln::runtime
