// SPDX-License-Identifier: Apache-2.0
#include "runtime/control_server.h"

#include <sys/epoll.h>

#include "base/log.h"
#include "base/unix_socket.h"

namespace kiln::runtime {

Result<std::unique_ptr<ControlServer>> ControlServer::create(EventLoop& loop,
                                                             const std::string& path,
                                                             Handler handler) {
  std::unique_ptr<ControlServer> server(
      new ControlServer(loop, TRY(listen_unix(path)), std::move(handler)));
  ControlServer* self = server.get();
  TRY(loop.add_fd(self->listener_.get(), EPOLLIN, [self](uint32_t) { self->accept_one(); }));
  return server;
}

ControlServer::~ControlServer() {
  *alive_ = false;
  loop_.remove_fd(listener_.get());
}

void ControlServer::accept_one() {
  auto socket = accept_unix(listener_.get());
  if (!socket) return;  // the client has given up
  const ConnectionId id = next_id_++;
  auto connection = FrameConnection::create(
      loop_, std::move(*socket), protocol::kMaxRequestBytes,
      [this, id](const std::string& payload) { handle(id, payload); },
      [this, id](const Error&) {
        connections_.erase(id);
        if (on_closed_) on_closed_(id);
      });
  if (!connection) return log_warning("{}, ignoring", connection.error().message);
  (*connection)->accept_fds();
  connections_.emplace(id, std::move(*connection));
}

void ControlServer::handle(ConnectionId id, const std::string& payload) {
  const auto request = protocol::decode_request(payload);
  if (!request) {
    log_warning("control.sock: {}, ignoring", request.error().message);
    connections_.erase(id);
    return;
  }
  const uint64_t request_id = request->id;
  handler_(id, *request, [this, alive = alive_, id, request_id](Result<Json> result) {
    if (!*alive) return;
    protocol::Reply reply;
    reply.id = request_id;
    if (result) {
      reply.result = std::move(*result);
    } else {
      reply.error = std::move(result.error());
    }
    send(id, protocol::encode(reply));
  });
}

void ControlServer::send(ConnectionId id, const std::string& payload) {
  if (const auto found = connections_.find(id); found != connections_.end())
    found->second->send(payload);
}

std::vector<UniqueFd> ControlServer::take_fds(ConnectionId connection) {
  const auto found = connections_.find(connection);
  return found == connections_.end() ? std::vector<UniqueFd>() : found->second->take_fds();
}

void ControlServer::send_event(ConnectionId connection, const protocol::Event& event) {
  send(connection, protocol::encode(event));
}

bool ControlServer::offer_event(ConnectionId connection, const protocol::Event& event) {
  const auto found = connections_.find(connection);
  if (found == connections_.end()) return false;
  if (found->second->sent_everything()) send_event(connection, event);
  return true;
}

bool ControlServer::sent_everything() const {
  for (const auto& [id, connection] : connections_) {
    if (!connection->sent_everything()) return false;
  }
  return true;
}

}  // namespace kiln::runtime
