// SPDX-License-Identifier: Apache-2.0
#include "agent/core/stream_server.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cstring>

#include "base/format.h"
#include "base/log.h"

namespace kiln::agent {
namespace {

constexpr int64_t kHeaderTimeoutMs = 30'000;  // a host that is busy, not one that is broken
constexpr int64_t kAcceptPauseMs = 100;
constexpr size_t kMaxHandshakes = 64;

std::string framed(std::string_view payload) {
  const auto size = static_cast<uint32_t>(payload.size());
  std::string bytes(reinterpret_cast<const char*>(&size), sizeof size);
  return bytes.append(payload);
}

}  // namespace

StreamServer::StreamServer(EventLoop& loop, std::unique_ptr<StreamListener> listener,
                           Resolver resolve, EndedCallback ended)
    : loop_(loop),
      listener_(std::move(listener)),
      resolve_(std::move(resolve)),
      ended_(std::move(ended)) {}

Result<std::unique_ptr<StreamServer>> StreamServer::create(EventLoop& loop,
                                                           std::unique_ptr<StreamListener> listener,
                                                           Resolver resolve, EndedCallback ended) {
  std::unique_ptr<StreamServer> server(
      new StreamServer(loop, std::move(listener), std::move(resolve), std::move(ended)));
  TRY(server->listen());
  return server;
}

StreamServer::~StreamServer() {
  *alive_ = false;
  loop_.remove_fd(listener_->fd());
  if (pause_timer_ != 0) loop_.cancel_timer(pause_timer_);
  while (!handshakes_.empty()) drop(handshakes_.begin()->first);
}

Result<void> StreamServer::listen() {
  return loop_.add_fd(listener_->fd(), EPOLLIN, [this](uint32_t) { accept(); });
}

// Leaves the rest in the listener's queue for a moment.
void StreamServer::pause(std::string_view reason) {
  log_warning("take a stream: {}, trying again", reason);
  loop_.remove_fd(listener_->fd());
  pause_timer_ = loop_.add_timer(kAcceptPauseMs, [this] {
    pause_timer_ = 0;
    if (const auto again = listen(); !again) log_error("{}", again.error().message);
  });
}

void StreamServer::accept() {
  if (handshakes_.size() >= kMaxHandshakes) return pause("too many say nothing");
  auto connection = listener_->accept();
  if (!connection) return pause(connection.error().message);
  if (!*connection) return;
  const uint64_t id = next_id_++;
  const int fd = connection->get();
  if (const auto watched = loop_.add_fd(fd, EPOLLIN, [this, id](uint32_t) { read_header(id); });
      !watched) {
    log_error("take a stream: {}", watched.error().message);
    return;
  }
  Handshake& handshake = handshakes_[id];
  handshake.connection = std::move(*connection);
  handshake.timer = loop_.add_timer(kHeaderTimeoutMs, [this, id] {
    log_warning("a stream without a header, ignoring");
    drop(id);
  });
}

void StreamServer::drop(uint64_t id) {
  const auto found = handshakes_.find(id);
  if (found == handshakes_.end()) return;
  loop_.cancel_timer(found->second.timer);
  if (found->second.connection) loop_.remove_fd(found->second.connection.get());
  handshakes_.erase(found);
}

// Never reads past the header: what follows is the stream itself.
Result<bool> StreamServer::receive(Handshake& handshake) {
  uint32_t size = 0;
  std::array<char, protocol::kMaxStreamFrameBytes> buffer;
  while (true) {
    std::string& received = handshake.received;
    size_t wanted = sizeof size;
    if (received.size() >= sizeof size) {
      std::memcpy(&size, received.data(), sizeof size);
      if (size > buffer.size())
        return make_error(ErrorKind::kOutOfRange, fmt::format("a header of {} bytes", size));
      wanted += size;
      if (received.size() == wanted) return true;
    }
    const ssize_t got =
        recv(handshake.connection.get(), buffer.data(), wanted - received.size(), MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return false;
    if (got < 0) return sys_error("receive");
    if (got == 0) return make_error(ErrorKind::kDataLoss, "it has ended before its header");
    received.append(buffer.data(), static_cast<size_t>(got));
  }
}

void StreamServer::read_header(uint64_t id) {
  const auto complete = receive(handshakes_.at(id));
  if (complete && !*complete) return;
  if (complete) return answer(id);
  log_warning("open a stream: {}, ignoring", complete.error().message);
  drop(id);
}

void StreamServer::answer(uint64_t id) {
  const std::string payload = handshakes_.at(id).received.substr(sizeof(uint32_t));
  loop_.remove_fd(handshakes_.at(id).connection.get());
  opening_[id] = std::move(handshakes_.at(id).connection);
  drop(id);
  auto decoded = protocol::decode_stream_header(payload);
  if (!decoded) return opened(id, {}, tl::unexpected(std::move(decoded.error())));
  const protocol::StreamHeader header = std::move(*decoded);
  resolve_(header, [this, alive = alive_, id, header](Result<StreamEnds> ends) {
    if (*alive) opened(id, header, std::move(ends));
  });
}

void StreamServer::opened(uint64_t id, const protocol::StreamHeader& header,
                          Result<StreamEnds> ends) {
  UniqueFd connection = std::move(opening_.at(id));
  opening_.erase(id);
  if (ends) {
    const auto begun = begin(id, std::move(connection), header, std::move(*ends));
    if (!begun) log_debug("open a stream: {}", begun.error().message);
    return;
  }
  log_debug("open a stream: {}", ends.error().message);
  const std::string frame = framed(protocol::encode_stream_reply(ends.error()));
  static_cast<void>(send(connection.get(), frame.data(), frame.size(), MSG_NOSIGNAL));
}

Result<void> StreamServer::begin(uint64_t id, UniqueFd connection,
                                 const protocol::StreamHeader& header, StreamEnds ends) {
  const std::string frame = framed(protocol::encode_stream_reply(std::nullopt));
  // The first bytes on a new connection: there is room for them, or it is not worth having.
  if (send(connection.get(), frame.data(), frame.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(frame.size()))
    return sys_error("answer a stream's header");
  relays_[id] =
      TRY(StreamRelay::create(loop_, std::move(connection), std::move(ends), [this, id, header] {
        const auto relay = std::move(relays_.at(id));
        relays_.erase(id);
        ended_(header);
      }));
  return {};
}

}  // namespace kiln::agent
