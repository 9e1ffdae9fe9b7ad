// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "agent/core/host_dial.h"
#include "agent/protocol/messages.h"
#include "base/acceptor.h"
#include "base/error.h"
#include "base/event_loop.h"
#include "base/log.h"
#include "base/socket_bridge.h"
#include "base/temporary_directory.h"
#include "base/unique_fd.h"

namespace kiln::agent {

// Stands in a container for a socket that the host serves, and carries each connection there. It
// has the mode and the owner of the host's, so that whoever may connect there may here.
class ForwardSocket {
 public:
  // A connection to the host's end, as HostDial takes it.
  using Dialer = std::function<Result<UniqueFd>()>;

  static constexpr size_t kMaxConnections = 128;  // as runtime/forward_relay.h

  // In a directory of its own below `parent`, which goes with it.
  static Result<std::unique_ptr<ForwardSocket>> listen(EventLoop& loop, const std::string& parent,
                                                       const protocol::ForwardedSocket& socket,
                                                       Dialer dial);
  ForwardSocket(const ForwardSocket&) = delete;
  ForwardSocket& operator=(const ForwardSocket&) = delete;

  const std::string& path() const { return path_; }
  size_t connections() const { return connections_.size(); }
  uint64_t bytes_copied() const;
  // For when all processes of the container have ended: takes who waits. Whether everything that
  // they sent has left.
  bool settle();

 private:
  struct Connection {
    UniqueFd client;
    std::unique_ptr<HostDial> dial;
    std::unique_ptr<SocketBridge> bridge;
  };

  ForwardSocket(EventLoop& loop, TemporaryDirectory directory, std::string token, Dialer dial);
  Result<UniqueFd> bind(const protocol::ForwardedSocket& socket);
  void take(UniqueFd client);
  Result<void> add(UniqueFd client);
  void connected(uint64_t id, Result<UniqueFd> host);
  void complain(const Error& error);

  EventLoop& loop_;
  TemporaryDirectory directory_;
  std::string path_;
  std::string token_;
  Dialer dial_;
  std::unique_ptr<Acceptor> acceptor_;
  std::map<uint64_t, Connection> connections_;
  uint64_t next_id_ = 1;
  RateLimit complaints_{5};
};

}  // namespace kiln::agent
