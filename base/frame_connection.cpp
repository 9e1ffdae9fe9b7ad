// SPDX-License-Identifier: Apache-2.0
#include "base/frame_connection.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cstring>

#include "base/format.h"
#include "base/unix_socket.h"

namespace kiln {

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
  outgoing_.append({reinterpret_cast<const char*>(&size), sizeof size});
  outgoing_.append(payload);
  if (was_empty) flush();
}

void FrameConnection::end_sending() {
  if (socket_) shutdown(socket_.get(), SHUT_WR);
}

void FrameConnection::handle(uint32_t events) {
  const auto alive = alive_;
  if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) flush();
  const bool readable = (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0;
  if (readable && outgoing_.size() < kMaxQueuedBytes) read_some();
  if (*alive && socket_ && !outgoing_.empty()) flush();
}

void FrameConnection::flush() {
  outgoing_.flush(socket_.get());
  const uint32_t reading = outgoing_.size() < kMaxQueuedBytes ? uint32_t{EPOLLIN} : 0;
  const uint32_t writing = outgoing_.empty() ? 0 : uint32_t{EPOLLOUT};
  static_cast<void>(loop_.modify_fd(socket_.get(), reading | writing));
}

void FrameConnection::read_some() {
  constexpr size_t kReadBytes = 16384;
  auto got = receive_with_fds(socket_.get(), kReadBytes, MSG_DONTWAIT);
  if (!got && got.error().sys_errno == EAGAIN) return;
  if (!got) return close(std::move(got.error()));
  if (got->bytes.empty()) {
    return close(
        incoming_.empty()
            ? make_error(ErrorKind::kUnavailable, "the peer has closed the connection").value()
            : make_error(ErrorKind::kDataLoss, "receive a message: it is cut short").value());
  }
  if (accepts_fds_)
    for (UniqueFd& fd : got->fds) fds_.push_back(std::move(fd));
  if (fds_.size() > kMaxWaitingFds)
    return close(
        make_error(ErrorKind::kOutOfRange, "receive a message: too many descriptors").value());
  incoming_ += got->bytes;
  take_frames();
}

void FrameConnection::take_frames() {
  const auto alive = alive_;
  const auto on_frame = on_frame_;
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
    if (incoming_.empty()) incoming_ = std::string();
    (*on_frame)(std::move(payload));
  }
}

void FrameConnection::close(Error reason) {
  loop_.remove_fd(socket_.get());
  socket_.reset();
  const ClosedCallback on_closed = std::move(on_closed_);  // it may destroy us
  if (on_closed) on_closed(std::move(reason));
}

}  // namespace kiln
