// SPDX-License-Identifier: Apache-2.0
#include "shim/ttrpc/client.h"

#include "base/format.h"
#include "shim/ttrpc/status.h"
#include "ttrpc.pb.h"

namespace kiln::ttrpc {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;

Result<std::string> decode_response(const Message& message) {
  if (message.too_long)
    return make_error(ErrorKind::kResourceExhausted, "the response is too long");
  api::Response response;
  if (!response.ParseFromString(message.data))
    return make_error(ErrorKind::kInternal, "the response cannot be decoded");
  if (response.status().code() != 0) return tl::unexpected(decode_status(response.status()));
  return std::move(*response.mutable_payload());
}

}  // namespace

Result<std::unique_ptr<Client>> Client::create(EventLoop& loop, UniqueFd socket,
                                               std::function<void(const Error&)> on_closed) {
  std::unique_ptr<Client> client(new Client(loop));
  Client* self = client.get();
  self->on_closed_ = std::move(on_closed);
  self->connection_ = TRY(MessageConnection::create(
      loop, std::move(socket), [self](Message message) { self->handle(std::move(message)); },
      [self](const Error& reason) { self->close(reason); }));
  return client;
}

Client::~Client() {
  *alive_ = false;
  for (const auto& [stream, pending] : pending_)
    if (pending.timer != 0) loop_.cancel_timer(pending.timer);
}

uint32_t Client::start(const Outgoing& request, uint8_t flags, Pending pending) {
  api::Request message;
  message.set_service(request.service);
  message.set_method(request.method);
  message.set_payload(request.payload);
  message.set_timeout_nano(request.timeout_ms * kNsPerMs);
  for (const auto& [key, value] : request.metadata) {
    api::KeyValue* item = message.add_metadata();
    item->set_key(key);
    item->set_value(value);
  }
  const uint32_t stream = next_stream_;
  next_stream_ += 2;
  const std::string data = message.SerializeAsString();
  const bool too_long = data.size() > kMaxDataBytes;
  if (!closed_ && !too_long && request.timeout_ms > 0) {
    pending.timer = loop_.add_timer(request.timeout_ms, [this, stream] {
      pending_.at(stream).timer = 0;
      finish(stream, make_error(ErrorKind::kDeadlineExceeded, "context deadline exceeded"));
    });
  }
  pending_.emplace(stream, std::move(pending));
  if (!closed_ && !too_long) {
    connection_->send(stream, MessageType::kRequest, flags, data);
    return stream;
  }
  finish_later(stream, too_long
                           ? make_error(ErrorKind::kResourceExhausted, "the request is too long")
                           : make_error(ErrorKind::kUnavailable, "the connection has been closed"));
  return stream;
}

void Client::finish_later(uint32_t stream, const Result<std::string>& response) {
  loop_.defer([this, alive = alive_, stream, response] {
    if (*alive) finish(stream, response);
  });
}

void Client::call(const Outgoing& request, Callback callback) {
  start(request, 0, {std::move(callback), {}, 0});
}

uint32_t Client::open_stream(const Outgoing& request, StreamCallbacks callbacks) {
  return start(request, kRemoteOpen, {nullptr, std::move(callbacks), 0});
}

void Client::send(uint32_t stream, std::string_view data) {
  if (closed_ || !pending_.contains(stream)) return;
  if (data.size() > kMaxDataBytes)
    return finish_later(stream, make_error(ErrorKind::kResourceExhausted, "the data is too long"));
  connection_->send(stream, MessageType::kData, 0, data);
}

void Client::end_sending(uint32_t stream) {
  if (!closed_ && pending_.contains(stream))
    connection_->send(stream, MessageType::kData, kRemoteClosed | kNoData, {});
}

void Client::handle(Message message) {
  const auto found = pending_.find(message.stream);
  if (found == pending_.end()) return;  // it came too late
  if (message.type == static_cast<uint8_t>(MessageType::kResponse))
    return finish(message.stream, decode_response(message));
  if (message.too_long)
    return finish(message.stream,
                  make_error(ErrorKind::kResourceExhausted, "the server's data is too long"));
  if (message.type != static_cast<uint8_t>(MessageType::kData) || found->second.callback)
    return finish(message.stream,
                  make_error(ErrorKind::kInternal, "the server sent what was not asked for"));
  const auto alive = alive_;
  const uint32_t stream = message.stream;
  if ((message.flags & kNoData) == 0) {
    const auto on_data = found->second.callbacks.on_data;  // it may end the stream
    on_data(std::move(message.data));
  }
  if (*alive && (message.flags & kRemoteClosed) != 0) finish(stream, std::string());
}

void Client::finish(uint32_t stream, const Result<std::string>& response) {
  const auto found = pending_.find(stream);
  if (found == pending_.end()) return;
  const Pending pending = std::move(found->second);
  pending_.erase(found);
  if (pending.timer != 0) loop_.cancel_timer(pending.timer);
  tell(pending, response);
}

void Client::tell(const Pending& pending, const Result<std::string>& response) {
  if (pending.callback) return pending.callback(response);
  if (response) return pending.callbacks.on_end({});
  pending.callbacks.on_end(tl::unexpected(response.error()));
}

void Client::close(const Error& reason) {
  closed_ = true;
  const auto alive = alive_;
  // Not those that an answer leads to: they are told later, or who tries again at once would never
  // let us go.
  auto pending = std::exchange(pending_, {});
  for (const auto& [stream, call] : pending)
    if (call.timer != 0) loop_.cancel_timer(call.timer);
  const auto answer = make_error(ErrorKind::kUnavailable, fmt::format("ttrpc: {}", reason.message));
  for (auto& [stream, call] : pending) {
    if (!*alive) return;
    tell(call, answer);
  }
  if (!*alive) return;
  const auto on_closed = std::move(on_closed_);
  if (on_closed) on_closed(reason);
}

}  // namespace kiln::ttrpc
