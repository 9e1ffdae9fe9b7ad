// SPDX-License-Identifier: Apache-2.0
#include "shim/ttrpc/server.h"

#include <algorithm>

#include "base/format.h"
#include "base/log.h"
#include "shim/ttrpc/status.h"

namespace kiln::ttrpc {
namespace {

// A client that asks for more at once is out of its mind.
constexpr size_t kMaxCalls = 4096;
constexpr size_t kMaxEarlyMessages = 64;
constexpr size_t kMaxEarlyBytes = 2 * kMaxDataBytes;
constexpr int64_t kNsPerMs = 1'000'000;

tl::unexpected<Error> too_long(const char* what) {
  return make_error(ErrorKind::kResourceExhausted,
                    fmt::format("{} must not exceed {} bytes", what, kMaxDataBytes));
}

tl::unexpected<Error> too_late() {
  return make_error(ErrorKind::kDeadlineExceeded, "context deadline exceeded");
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
  alive_.reset();
  for (auto& [id, peer] : peers_) {
    for (auto& [stream, call] : peer.calls) {
      if (call.timer != 0) loop_.cancel_timer(call.timer);
      if (const auto open = call.open.lock()) open->drop();
    }
  }
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
  const bool request = message.type == static_cast<uint8_t>(MessageType::kRequest);
  // Other types are for what the protocol may become.
  if (!request && message.type != static_cast<uint8_t>(MessageType::kData)) return;
  if (message.stream % 2 != 1)
    return refuse(peer, message.stream,
                  invalid_argument("StreamID must be odd for client initiated streams").value());
  if (request) return handle_request(peer, std::move(message));
  handle_data(peer, std::move(message));
}

void Server::handle_request(uint64_t id, Message message) {
  Peer& peer = peers_.at(id);
  const uint32_t stream = message.stream;
  if (stream <= peer.last_stream)
    return refuse(id, stream,
                  invalid_argument("StreamID cannot be re-used and must increment").value());
  peer.last_stream = stream;
  if (message.too_long) return refuse(id, stream, too_long("a message").value());
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
  // Its caller has given up already.
  if (request.timeout_nano() < 0) return answer(peer, stream, too_late());
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

struct Server::Reply::Way {
  Way(Server& to, uint64_t peer_id, uint32_t stream_id)
      : server(&to), server_alive(to.alive_), peer(peer_id), stream(stream_id) {}
  // Callers need not set a deadline, and would wait for ever.
  ~Way() { answer(make_error(ErrorKind::kAborted, "the call has been given up")); }
  Way(const Way&) = delete;
  Way& operator=(const Way&) = delete;
  void answer(const Result<std::string>& response) const {
    if (server_alive.lock()) server->answer(peer, stream, response);
  }

  Server* server;
  std::weak_ptr<bool> server_alive;
  uint64_t peer;
  uint32_t stream;
};

Server::Reply::Reply(Server& server, uint64_t peer, uint32_t stream)
    : way_(std::make_shared<const Way>(server, peer, stream)) {}

void Server::Reply::operator()(const Result<std::string>& response) const {
  way_->answer(response);
}

bool Server::Reply::wanted() const {
  if (!way_->server_alive.lock()) return false;
  const auto peer = way_->server->peers_.find(way_->peer);
  return peer != way_->server->peers_.end() && peer->second.calls.contains(way_->stream);
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
    answer(peer, stream, too_late());
  });
}

void Server::handle_data(uint64_t id, Message message) {
  Peer& peer = peers_.at(id);
  const auto found = peer.calls.find(message.stream);
  if (found == peer.calls.end()) {
    // It may have been finished while this was under way.
    if (message.stream <= peer.last_stream) return;
    return refuse(id, message.stream, invalid_argument("StreamID is no longer active").value());
  }
  Call& call = found->second;
  if (message.too_long) return answer(id, message.stream, too_long("a message"));
  if (!call.streaming || call.remote_closed)
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
    data = encode_status(response.error());
  } else {
    api::Response message;
    message.mutable_status();
    message.set_payload(*response);
    data = message.SerializeAsString();
    if (data.size() > kMaxDataBytes) data = encode_status(too_long("a response").value());
  }
  send(id, stream, MessageType::kResponse, 0, data);
  forget(id, stream);
}

void Server::refuse(uint64_t peer, uint32_t stream, const Error& error) {
  send(peer, stream, MessageType::kResponse, 0, encode_status(error));
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
  on_data_ = nullptr;
  on_end_ = nullptr;
  finish({});
}

void Stream::receive(std::function<void(std::string)> on_data, std::function<void()> on_end) {
  const auto self = shared_from_this();  // who keeps us may let go in a callback
  on_data_ = on_data ? std::make_shared<const DataCallback>(std::move(on_data)) : nullptr;
  on_end_ = std::move(on_end);
  if (!on_data_ || std::exchange(passing_early_, true)) return;
  early_bytes_ = 0;
  for (std::string& data : std::exchange(early_, {})) deliver(std::move(data));
  passing_early_ = false;
  if (ended_) end();
}

void Stream::deliver(std::string data) {
  const auto on_data = on_data_;  // it may be replaced meanwhile
  if (on_data) return (*on_data)(std::move(data));
  if (end_told_) return;
  early_bytes_ += data.size();
  if (early_.size() < kMaxEarlyMessages && early_bytes_ <= kMaxEarlyBytes)
    return early_.push_back(std::move(data));
  finish(make_error(ErrorKind::kResourceExhausted, "nobody takes the stream's data"));
}

void Stream::end() {
  ended_ = true;
  if (on_data_ && !passing_early_) tell_end();
}

// What the callbacks hold goes with them: as a rule that is the stream itself.
void Stream::tell_end() {
  end_told_ = true;
  const auto on_data = std::exchange(on_data_, nullptr);
  const auto on_end = std::exchange(on_end_, nullptr);
  if (on_end) on_end();
}

void Stream::drop() {
  finished_ = ended_ = end_told_ = true;
  const auto on_data = std::exchange(on_data_, nullptr);
  const auto on_end = std::exchange(on_end_, nullptr);
}

void Stream::send(std::string_view data) {
  if (finished_ || !server_alive_.lock()) return;
  if (data.size() > kMaxDataBytes) return finish(too_long("data"));
  server_->send(peer_, id_, MessageType::kData, 0, data);
}

void Stream::finish(const Result<void>& outcome) {
  if (std::exchange(finished_, true) || !server_alive_.lock()) return;
  const auto self = weak_from_this().lock();  // null: ~Stream
  if (outcome) {
    server_->send(peer_, id_, MessageType::kData, kRemoteClosed | kNoData, {});
  } else {
    server_->refuse(peer_, id_, outcome.error());
  }
  server_->forget(peer_, id_);
  if (!end_told_) tell_end();
}

}  // namespace kiln::ttrpc
