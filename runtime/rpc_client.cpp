// SPDX-License-Identifier: Apache-2.0
#include "runtime/rpc_client.h"

#include "base/format.h"

namespace kiln::runtime {

Result<std::unique_ptr<RpcClient>> RpcClient::create(EventLoop& loop, UniqueFd socket,
                                                     Options options) {
  std::unique_ptr<RpcClient> client(new RpcClient(loop, std::move(options)));
  RpcClient* self = client.get();
  client->connection_ = TRY(FrameConnection::create(
      loop, std::move(socket), self->options_.max_message_bytes,
      [self, alive = client->alive_](const std::string& payload) {
        if (*alive && !self->closed_) self->handle(payload);
      },
      [self, alive = client->alive_](Error reason) {
        if (*alive) self->fail(std::move(reason).wrap(self->options_.peer));
      }));
  return client;
}

RpcClient::~RpcClient() {
  *alive_ = false;
  for (const auto& [id, pending] : pending_) {
    if (pending.timer) loop_.cancel_timer(*pending.timer);
  }
}

void RpcClient::request(const std::string& method, Json params, int64_t timeout_ms,
                        ReplyCallback callback) {
  if (closed_) {
    callback(make_error(ErrorKind::kUnavailable,
                        fmt::format("{}: the connection has ended", options_.peer)));
    return;
  }
  const uint64_t id = next_id_++;
  Pending pending{method, std::move(callback), std::nullopt};
  if (timeout_ms > 0) pending.timer = loop_.add_timer(timeout_ms, [this, id] { expire(id); });
  pending_.emplace(id, std::move(pending));
  connection_->send(protocol::encode(protocol::Request{id, method, std::move(params)}));
}

Result<Json> RpcClient::call(const std::string& method, Json params, int64_t timeout_ms) {
  const auto answer = std::make_shared<std::optional<Result<Json>>>();
  request(method, std::move(params), timeout_ms,
          [answer](Result<Json> result) { *answer = std::move(result); });
  while (!answer->has_value()) TRY(loop_.run_once(-1));
  return std::move(**answer);
}

void RpcClient::expire(uint64_t id) {
  const auto found = pending_.find(id);
  if (found == pending_.end()) return;
  found->second.timer.reset();
  found->second.expired = true;
  const ReplyCallback callback = std::move(found->second.callback);
  callback(make_error(
      ErrorKind::kDeadlineExceeded,
      fmt::format("{}: no answer to `{}` in time", options_.peer, found->second.method)));
}

void RpcClient::handle(const std::string& payload) {
  const auto alive = alive_;
  auto message = protocol::decode_from_agent(payload);
  Result<void> handled;
  if (!message) {
    handled = tl::unexpected(std::move(message.error()));
  } else if (message->event) {
    if (options_.on_event) handled = options_.on_event(*message->event);
  } else {
    handled = handle_reply(std::move(*message->reply));
  }
  if (!handled && *alive)
    fail(std::move(handled.error()).wrap(fmt::format("{} broke the protocol", options_.peer)));
}

Result<void> RpcClient::handle_reply(protocol::Reply reply) {
  const auto found = pending_.find(reply.id);
  if (found == pending_.end()) return invalid_argument("an answer to nothing");
  Pending pending = std::move(found->second);
  pending_.erase(found);
  if (pending.timer) loop_.cancel_timer(*pending.timer);
  if (pending.expired) return {};
  if (reply.error) {
    pending.callback(tl::unexpected(std::move(*reply.error)));
  } else {
    pending.callback(std::move(reply.result));
  }
  return {};
}

void RpcClient::fail(const Error& error) {
  if (closed_) return;
  closed_ = true;
  const auto alive = alive_;
  // Not destroyed here: this may run inside its own callback.
  loop_.defer([connection = std::shared_ptr<FrameConnection>(std::move(connection_))] {});
  const auto pending = std::move(pending_);
  pending_.clear();
  for (const auto& [id, request] : pending) {
    if (request.timer) loop_.cancel_timer(*request.timer);
  }
  for (const auto& [id, request] : pending) {
    if (!request.expired) request.callback(tl::unexpected(error));
    if (!*alive) return;
  }
  if (options_.on_closed) options_.on_closed(error);
}

}  // namespace kiln::runtime
