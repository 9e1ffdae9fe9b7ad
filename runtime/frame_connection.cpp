// SPDX-License-Identifier: Apache-2.0
#include "runtime/frame_connection.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cstring>

#include "base/format.h"

namespace kiln::runtime {

FrameConnection::FrameConnection(EventLoop& loop, UniqueFd socket, size_t max_frame_bytes,
                                 FrameCallback on_frame, ClosedCallback on_closed)
    : loop_(loop),
      socket_(std::move(socket)),
      max_frame_bytes_(max_frame_bytes),
      on_frame_(std::make_shared<const FrameCallback>(std::move(on_frame))),
      on_closed_(std::move(on_closed)) {}

Result<std::unique_ptr<FrameConnection>> FrameConnection::create(EventLoop& loop, UniqueFd socket,
                                                                 size_t max_frame_bytes,
                                                                 FrameCallback on_frame,
                                                                 ClosedCallback on_closed) {
  std::unique_ptr<FrameConnection> connection(new FrameConnection(
      loop, std::move(socket), max_frame_bytes, std::move(on_frame), std::move(on_closed)));
  FrameConnection* self = connection.get();
  TRY(loop.add_fd(self->socket_.get(), EPOLLIN, [self](uint32_t events) { self->handle(events); }));
  return connection;
}

FrameConnection::~FrameConnection() {
  *alive_ = false;
  if (socket_) loop_.remove_fd(socket_.get());
}

void FrameConnection::send(std::string_view payload) {
  if (!socket_) return;
  const auto size = static_cast<uint32_t>(payload.size());
  const bool was_empty = outgoing_.empty();
  outgoing_.append(reinterpret_cast<const char*>(&size), sizeof size);
  outgoing_ += payload;
  if (was_empty) flush();
}

void FrameConnection::handle(uint32_t events) {
  const auto alive = alive_;
  if ((events & EPOLLOUT) != 0) flush();
  if (*alive && socket_ && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) read_some();
}

void FrameConnection::flush() {
  while (!outgoing_.empty()) {
    const ssize_t sent =
        ::send(socket_.get(), outgoing_.data(), outgoing_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) break;
    if (sent < 0) {
      // The reading side reports the end, after what the peer may have said before it.
      outgoing_.clear();
      break;
    }
    outgoing_.erase(0, static_cast<size_t>(sent));
  }
  if (outgoing_.empty()) outgoing_.shrink_to_fit();
  const uint32_t wanted = outgoing_.empty() ? EPOLLIN : EPOLLIN | EPOLLOUT;
  static_cast<void>(loop_.modify_fd(socket_.get(), wanted));
}

void FrameConnection::read_some() {
  std::array<char, 16384> buffer;
  const ssize_t got = recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got < 0) return close(sys_error("receive a message").value());
  if (got == 0) {
    return close(
        incoming_.empty()
            ? make_error(ErrorKind::kUnavailable, "the peer has closed the connection").value()
            : make_error(ErrorKind::kDataLoss, "receive a message: it is cut short").value());
  }
  incoming_.append(buffer.data(), static_cast<size_t>(got));
  const auto alive = alive_;
  while (*alive && socket_) {
    uint32_t size = 0;
    if (incoming_.size() < sizeof size) break;
    std::memcpy(&size, incoming_.data(), sizeof size);
    if (size > max_frame_bytes_) {
      return close(make_error(ErrorKind::kOutOfRange,
                              fmt::format("receive a message: {} bytes are too long", size))
                       .value());
    }
    if (incoming_.size() - sizeof size < size) break;
    std::string payload = incoming_.substr(sizeof size, size);
    incoming_.erase(0, sizeof size + size);
    if (incoming_.empty()) incoming_.shrink_to_fit();
    const auto on_frame = on_frame_;
    (*on_frame)(std::move(payload));
  }
}

void FrameConnection::close(Error reason) {
  loop_.remove_fd(socket_.get());
  socket_.reset();
  const ClosedCallback on_closed = std::move(on_closed_);  // it may destroy us
  if (on_closed) on_closed(std::move(reason));
}

}  // namespace kiln::runtime
