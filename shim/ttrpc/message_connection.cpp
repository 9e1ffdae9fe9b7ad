// SPDX-License-Identifier: Apache-2.0
#include "shim/ttrpc/message_connection.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>

namespace kiln::ttrpc {
namespace {

constexpr size_t kReadBytes = 16384;
constexpr size_t kMaxQueuedBytes = 2 * kMaxDataBytes;

uint32_t big_endian(std::string_view bytes) {
  uint32_t value = 0;
  for (const char byte : bytes.substr(0, 4)) value = value << 8 | static_cast<unsigned char>(byte);
  return value;
}

void append_big_endian(std::string& out, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(value >> shift & 0xff);
}

}  // namespace

MessageConnection::MessageConnection(EventLoop& loop, UniqueFd socket, MessageCallback on_message,
                                     ClosedCallback on_closed)
    : loop_(loop),
      socket_(std::move(socket)),
      on_message_(std::make_shared<const MessageCallback>(std::move(on_message))),
      on_closed_(std::move(on_closed)) {}

Result<std::unique_ptr<MessageConnection>> MessageConnection::create(EventLoop& loop,
                                                                     UniqueFd socket,
                                                                     MessageCallback on_message,
                                                                     ClosedCallback on_closed) {
  std::unique_ptr<MessageConnection> connection(
      new MessageConnection(loop, std::move(socket), std::move(on_message), std::move(on_closed)));
  MessageConnection* self = connection.get();
  self->watched_ = EPOLLIN;
  TRY(loop.add_fd(self->socket_.get(), EPOLLIN, [self](uint32_t events) { self->handle(events); }));
  return connection;
}

MessageConnection::~MessageConnection() {
  *alive_ = false;
  if (socket_) loop_.remove_fd(socket_.get());
}

void MessageConnection::send(uint32_t stream, MessageType type, uint8_t flags,
                             std::string_view data) {
  if (!socket_) return;
  const bool was_empty = outgoing_.empty();
  std::string header;
  append_big_endian(header, static_cast<uint32_t>(data.size()));
  append_big_endian(header, stream);
  header += static_cast<char>(type);
  header += static_cast<char>(flags);
  outgoing_.append(header);
  outgoing_.append(data);
  if (was_empty) flush();
}

void MessageConnection::handle(uint32_t events) {
  const auto alive = alive_;
  if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) flush();
  const bool readable = (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0;
  if (readable && queued_bytes() < kMaxQueuedBytes) read_some();
  if (*alive && socket_ && !outgoing_.empty()) flush();
}

void MessageConnection::flush() {
  outgoing_.flush(socket_.get());
  const uint32_t reading = queued_bytes() < kMaxQueuedBytes ? uint32_t{EPOLLIN} : 0;
  const uint32_t writing = outgoing_.empty() ? 0 : uint32_t{EPOLLOUT};
  if (watched_ == (reading | writing)) return;
  watched_ = reading | writing;
  static_cast<void>(loop_.modify_fd(socket_.get(), watched_));
}

void MessageConnection::read_some() {
  std::array<char, kReadBytes> buffer;
  const ssize_t got = recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got < 0) return close(sys_error("receive").value());
  if (got == 0) {
    return close(
        header_.empty()
            ? make_error(ErrorKind::kUnavailable, "the peer has closed the connection").value()
            : make_error(ErrorKind::kDataLoss, "receive a message: it is cut short").value());
  }
  take({buffer.data(), static_cast<size_t>(got)});
}

void MessageConnection::take(std::string_view bytes) {
  const auto alive = alive_;
  const auto on_message = on_message_;
  while (*alive && socket_) {
    if (header_.size() < kHeaderBytes) {
      if (bytes.empty()) return;
      const size_t size = std::min(kHeaderBytes - header_.size(), bytes.size());
      header_ += bytes.substr(0, size);
      bytes.remove_prefix(size);
      if (header_.size() < kHeaderBytes) return;
      take_header();
    }
    const size_t size = std::min(missing_, bytes.size());
    if (!incoming_.too_long) incoming_.data += bytes.substr(0, size);
    bytes.remove_prefix(size);
    missing_ -= size;
    if (missing_ > 0) return;
    header_.clear();
    (*on_message)(std::exchange(incoming_, Message()));
  }
}

void MessageConnection::take_header() {
  missing_ = big_endian(header_);
  incoming_.stream = big_endian(std::string_view(header_).substr(4));
  incoming_.type = static_cast<uint8_t>(header_[8]);
  incoming_.flags = static_cast<uint8_t>(header_[9]);
  incoming_.too_long = missing_ > kMaxDataBytes;
}

void MessageConnection::close(Error reason) {
  loop_.remove_fd(socket_.get());
  socket_.reset();
  const ClosedCallback on_closed = std::move(on_closed_);  // it may destroy us
  if (on_closed) on_closed(std::move(reason));
}

}  // namespace kiln::ttrpc
