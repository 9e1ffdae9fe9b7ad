// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <netinet/in.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "agent/core/host_dial.h"
#include "base/error.h"
#include "base/event_loop.h"
#include "base/frame_connection.h"
#include "base/log.h"
#include "base/socket_bridge.h"
#include "base/unique_fd.h"

namespace kiln::agent {

// Stands in for a name server that listens in the network namespace of the host: takes queries over
// UDP and TCP and carries them there and the answers back (agent/protocol/messages.h,
// kResolverPort). It does not look into them. Containers may send it anything: what they can use up
// is bounded, and who asks too much loses what asked longest ago.
class Resolver {
 public:
  // A connection to the host's end, as HostDial takes it.
  using Dialer = std::function<Result<UniqueFd>()>;

  static constexpr size_t kMaxClients = 64;  // of UDP
  static constexpr size_t kMaxStreams = 16;  // of TCP

  static Result<std::unique_ptr<Resolver>> listen(EventLoop& loop, const sockaddr_in& address,
                                                  Dialer dial);
  ~Resolver();
  Resolver(const Resolver&) = delete;
  Resolver& operator=(const Resolver&) = delete;

  size_t clients() const { return clients_.size(); }
  size_t streams() const { return streams_.size(); }

 private:
  // Somebody who sends datagrams, and the connection that carries them.
  struct Client {
    sockaddr_in address{};
    std::unique_ptr<HostDial> dial;
    std::vector<std::string> waiting;  // for the connection
    std::unique_ptr<FrameConnection> connection;
    uint64_t last_use = 0;
    EventLoop::TimerId idle_timer = 0;
  };
  struct Stream {
    UniqueFd client;
    std::unique_ptr<HostDial> dial;
    std::unique_ptr<SocketBridge> bridge;
  };
  using ClientKey = uint64_t;

  Resolver(EventLoop& loop, Dialer dial) : loop_(loop), dial_(std::move(dial)) {}
  void take_datagrams();
  void take_datagram(const sockaddr_in& from, std::string_view datagram);
  Result<Client*> add_client(ClientKey key, const sockaddr_in& from);
  void client_connected(ClientKey key, Result<UniqueFd> connection);
  void answer(ClientKey key, const std::string& datagram);
  void touch(ClientKey key, Client& client, int64_t idle_ms);
  void drop_client(ClientKey key);
  void drop_oldest_client();

  void accept_streams();
  Result<void> add_stream(UniqueFd client);
  void stream_connected(uint64_t id, Result<UniqueFd> connection);
  void drop_stream(uint64_t id);
  void complain(const Error& error);

  EventLoop& loop_;
  Dialer dial_;
  UniqueFd datagrams_;
  UniqueFd listener_;
  std::map<ClientKey, Client> clients_;
  std::map<uint64_t, Stream> streams_;
  uint64_t next_use_ = 1;
  uint64_t next_stream_ = 1;
  RateLimit complaints_{5};
};

}  // namespace kiln::agent
