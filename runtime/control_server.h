// SPDX-License-Identifier: Apache-2.0
// The monitor's control.sock, over which the commands speak to it. Only the owner of the state
// directory reaches it; its clients are our own commands.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "agent/protocol/messages.h"
#include "base/error.h"
#include "base/event_loop.h"
#include "base/frame_connection.h"

namespace kiln::runtime {

class ControlServer {
 public:
  using ConnectionId = uint64_t;
  using Reply = std::function<void(Result<Json>)>;  // may be called late, or not at all
  using Handler = std::function<void(ConnectionId, const protocol::Request&, Reply)>;

  static Result<std::unique_ptr<ControlServer>> create(EventLoop& loop, const std::string& path,
                                                       Handler handler);
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  // Called with each connection that ends.
  void watch_connections(std::function<void(ConnectionId)> on_closed) {
    on_closed_ = std::move(on_closed);
  }
  // In the handler of a request: the descriptors that came with it.
  std::vector<UniqueFd> take_fds(ConnectionId connection);
  // Dropped when the connection has gone.
  void send_event(ConnectionId connection, const protocol::Event& event);
  // The same, but left out while the peer is behind with reading. False: it has gone.
  bool offer_event(ConnectionId connection, const protocol::Event& event);
  // Whether everything that was said has left.
  bool sent_everything() const;

 private:
  ControlServer(EventLoop& loop, UniqueFd listener, Handler handler)
      : loop_(loop), listener_(std::move(listener)), handler_(std::move(handler)) {}
  void accept_one();
  void handle(ConnectionId id, const std::string& payload);
  void send(ConnectionId id, const std::string& payload);

  EventLoop& loop_;
  UniqueFd listener_;
  Handler handler_;
  std::function<void(ConnectionId)> on_closed_;
  std::map<ConnectionId, std::unique_ptr<FrameConnection>> connections_;
  ConnectionId next_id_ = 1;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace kiln::runtime
