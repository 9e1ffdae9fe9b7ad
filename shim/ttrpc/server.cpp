// SPDX-License-Identifier: Apache-2.0
#include "shim/ttrpc/server.h"

#include <algorithm>

#include "base/format.h"
#include "base/log.h"
#include "ttrpc.pb.h"

namespace kiln::ttrpc {
namespace {

// A client that asks for more at once is out of its mind.
constexpr size_t kMaxCalls = 4096;
constexpr size_t kMaxEarlyMessages = 64;
constexpr int64_t kNsPerMs = 1'000'000;

std::string status_response(const Error& error) {
  api::Response response;
  response.mutable_status()->set_code(static_cast<int>(error.kind));
  response.mutable_status()->set_message(error.message);
  return response.SerializeAsString();
}

}  // namespace

Server::Server(EventLoop& loop, std::vector<Method> methods)
    : loop_(loop), methods_(std::move(methods)) {}

Result<std::unique_ptr<Server>> Server::create(EventLoop& loop, UniqueFd listener,
                                               std::vector<Method> methods) {
  std::unique_ptr<Server> server(new Server(loop, std::move(methods)));
  Server* self = server.get();
  if (!listener) return server;
  server->acceptor_ = TRY(Acceptor::create(
      loop, std::move(listener),
      [self](UniqueFd socket) {
        if (const auto adopted = self->adopt(std::move(socket)); !adopted)
          log_warning("{}, ignoring", adopted.error().message);
      },
      [](const Error& error) { log_warning("{}, ignoring", error.message); }));
  return server;
}

Server::~Server() {
  *alive_ = false;
  for (auto& [id, peer] : peers_)
    for (auto& [stream, call] : peer.calls)
      if (call.timer != 0) loop_.cancel_timer(call.timer);
}

bool Server::sent_everything() const {
  return std::all_of(peers_.begin(), peers_.end(),
                     [](const auto& item) { return item.second.connection->queued_bytes() == 0; });
}

Result<void> Server::adopt(UniqueFd socket) {
  const uint64_t id = next_peer_++;
  auto connection = TRY(MessageConnection::create(
      loop_, std::move(socket), [this, id](Message message) { handle(id, std::move(message)); },
      [this, id](const Error& reason) {
        log_debug("ttrpc connection {}: {}", id, reason.message);
        closed(id);
      }));
  peers_[id].connection = std::move(connection);
  return {};
}

const Server::Method* Server::find(const std::string& service, const std::string& name) const {
  const auto found = std::find_if(methods_.begin(), methods_.end(), [&](const Method& method) {
    return method.name == name && method.service == service;
  });
  return found == methods_.end() ? nullptr : &*found;
}

bool Server::has_service(const std::string& service) const {
  return std::any_of(methods_.begin(), methods_.end(),
                     [&](const Method& method) { return method.service == service; });
}

void Server::handle(uint64_t peer, Message message) {
  if (message.type == static_cast<uint8_t>(MessageType::kRequest))
    return handle_request(peer, std::move(message));
  if (message.type == static_cast<uint8_t>(MessageType::kData))
    return handle_data(peer, std::move(message));
  // Clients send nothing else.
  refuse(peer, message.stream,
         invalid_argument(fmt::format("unexpected message of type {}", message.type)).value());
}

void Server::handle_request(uint64_t id, Message message) {
  Peer& peer = peers_.at(id);
  const uint32_t stream = message.stream;
  if (stream % 2 != 1)
    return refuse(id, stream,
                  invalid_argument("StreamID must be odd for client initiated streams").value());
  if (stream <= peer.last_stream)
    return refuse(id, stream,
                  invalid_argument("StreamID cannot be re-used and must increment").value());
  peer.last_stream = stream;
  if (message.too_long)
    return refuse(id, stream,
                  make_error(ErrorKind::kResourceExhausted,
                             fmt::format("a message must not exceed {} bytes", kMaxDataBytes))
                      .value());
  if (peer.calls.size() >= kMaxCalls)
    return refuse(id, stream,
                  make_error(ErrorKind::kResourceExhausted, "too many calls at once").value());
  peer.calls[stream];
  run(id, stream, message.flags, message.data);
}

void Server::run(uint64_t peer, uint32_t stream, uint8_t flags, const std::string& data) {
  api::Request request;
  if (!request.ParseFromString(data))
    return answer(peer, stream, invalid_argument("the request cannot be decoded"));
  const Method* method = find(request.service(), request.method());
  if (method == nullptr)
    return answer(
        peer, stream,
        make_error(ErrorKind::kUnimplemented, has_service(request.service())
                                                  ? fmt::format("method {}", request.method())
                                                  : fmt::format("service {}", request.service())));
  const bool data_follows = (flags & kRemoteOpen) != 0;
  if (data_follows && !method->streaming)
    return answer(peer, stream,
                  invalid_argument(fmt::format("{} is no streaming call", request.method())));
  set_deadline(peer, stream, request.timeout_nano());
  Incoming incoming{std::move(*request.mutable_payload()), {}};
  for (const api::KeyValue& item : request.metadata())
    incoming.metadata.emplace(item.key(), item.value());
  if (method->streaming) {
    Call& call = peers_.at(peer).calls.at(stream);
    call.streaming = true;
    call.remote_closed = !data_follows;
    return start_stream(peer, stream, *method, incoming);
  }
  method->unary(incoming, Reply(*this, peer, stream));
}

Server::Reply::Reply(Server& server, uint64_t peer, uint32_t stream)
    : server_(&server), server_alive_(server.alive_), peer_(peer), stream_(stream) {}

void Server::Reply::operator()(const Result<std::string>& response) const {
  if (server_alive_.lock()) server_->answer(peer_, stream_, response);
}

bool Server::Reply::wanted() const {
  if (!server_alive_.lock()) return false;
  const auto peer = server_->peers_.find(peer_);
  return peer != server_->peers_.end() && peer->second.calls.contains(stream_);
}

void Server::start_stream(uint64_t peer, uint32_t id, const Method& method,
                          const Incoming& request) {
  std::shared_ptr<Stream> stream(new Stream(*this, peer, id));
  Call& call = peers_.at(peer).calls.at(id);
  call.open = stream;
  if (call.remote_closed) stream->end();
  method.streaming(request, stream);
}

void Server::set_deadline(uint64_t peer, uint32_t stream, int64_t timeout_ns) {
  if (timeout_ns <= 0) return;
  const int64_t ms = timeout_ns / kNsPerMs + 1;
  peers_.at(peer).calls.at(stream).timer = loop_.add_timer(ms, [this, peer, stream] {
    const auto found = peers_.find(peer);
    if (found == peers_.end()) return;
    const auto call = found->second.calls.find(stream);
    if (call == found->second.calls.end()) return;
    call->second.timer = 0;
    answer(peer, stream, make_error(ErrorKind::kDeadlineExceeded, "context deadline exceeded"));
  });
}

void Server::handle_data(uint64_t id, Message message) {
  Peer& peer = peers_.at(id);
  const auto found = peer.calls.find(message.stream);
  // It may have been finished while this was under way.
  if (found == peer.calls.end()) return;
  Call& call = found->second;
  if (!call.streaming || call.remote_closed || message.too_long)
    return answer(id, message.stream, invalid_argument("data cannot be sent on this stream"));
  const auto stream = call.open.lock();
  if ((message.flags & kRemoteClosed) != 0) call.remote_closed = true;
  const bool ends = call.remote_closed;
  if (!stream) return;
  if ((message.flags & kNoData) == 0) stream->deliver(std::move(message.data));
  if (ends) stream->end();
}

void Server::answer(uint64_t id, uint32_t stream, const Result<std::string>& response) {
  const auto peer = peers_.find(id);
  if (peer == peers_.end() || !peer->second.calls.contains(stream)) return;
  std::string data;
  if (!response) {
    data = status_response(response.error());
  } else {
    api::Response message;
    message.mutable_status();
    message.set_payload(*response);
    data = message.SerializeAsString();
    if (data.size() > kMaxDataBytes)
      data = status_response(
          make_error(ErrorKind::kResourceExhausted, "the response is too long").value());
  }
  forget(id, stream);
  send(id, stream, MessageType::kResponse, 0, data);
}

void Server::refuse(uint64_t peer, uint32_t stream, const Error& error) {
  send(peer, stream, MessageType::kResponse, 0, status_response(error));
}

void Server::send(uint64_t id, uint32_t stream, MessageType type, uint8_t flags,
                  std::string_view data) {
  const auto peer = peers_.find(id);
  if (peer != peers_.end()) peer->second.connection->send(stream, type, flags, data);
}

void Server::forget(uint64_t id, uint32_t stream) {
  const auto peer = peers_.find(id);
  if (peer == peers_.end()) return;
  const auto found = peer->second.calls.find(stream);
  if (found == peer->second.calls.end()) return;
  const Call call = std::move(found->second);
  peer->second.calls.erase(found);
  if (call.timer != 0) loop_.cancel_timer(call.timer);
  if (const auto open = call.open.lock()) {
    open->finished_ = true;
    open->end();
  }
}

void Server::closed(uint64_t id) {
  auto node = peers_.extract(id);
  if (node.empty()) return;
  for (auto& [stream, call] : node.mapped().calls) {
    if (call.timer != 0) loop_.cancel_timer(call.timer);
    if (const auto open = call.open.lock()) {
      open->finished_ = true;
      open->end();
    }
  }
}

Stream::Stream(Server& server, uint64_t peer, uint32_t id)
    : server_(&server), server_alive_(server.alive_), peer_(peer), id_(id) {}

Stream::~Stream() {
  if (!finished_) finish({});
}

void Stream::receive(std::function<void(std::string)> on_data, std::function<void()> on_end) {
  on_data_ = std::move(on_data);
  on_end_ = std::move(on_end);
  for (std::string& data : std::exchange(early_, {})) on_data_(std::move(data));
  if (ended_ && on_end_) std::exchange(on_end_, nullptr)();
}

void Stream::deliver(std::string data) {
  if (on_data_) return on_data_(std::move(data));
  if (early_.size() < kMaxEarlyMessages) return early_.push_back(std::move(data));
  finish(make_error(ErrorKind::kResourceExhausted, "nobody takes the stream's data"));
}

void Stream::end() {
  ended_ = true;
  if (on_data_ && on_end_) std::exchange(on_end_, nullptr)();
}

void Stream::send(std::string_view data) {
  if (!finished_ && server_alive_.lock()) server_->send(peer_, id_, MessageType::kData, 0, data);
}

void Stream::finish(const Result<void>& outcome) {
  if (std::exchange(finished_, true) || !server_alive_.lock()) return;
  if (outcome) {
    server_->send(peer_, id_, MessageType::kData, kRemoteClosed | kNoData, {});
  } else {
    server_->refuse(peer_, id_, outcome.error());
  }
  server_->forget(peer_, id_);
}

}  // namespace kiln::ttrpc
