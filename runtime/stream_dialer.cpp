// SPDX-License-Identifier: Apache-2.0
#include "runtime/stream_dialer.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cstring>

#include "base/format.h"
#include "base/unix_socket.h"

namespace kiln::runtime {
namespace {

constexpr size_t kMaxGreetingBytes = 32;  // "OK <port>\n"

std::string framed(std::string_view payload) {
  const auto size = static_cast<uint32_t>(payload.size());
  std::string bytes(reinterpret_cast<const char*>(&size), sizeof size);
  return bytes.append(payload);
}

}  // namespace

Result<std::unique_ptr<StreamDialer>> StreamDialer::dial(EventLoop& loop,
                                                         const std::string& vsock_path,
                                                         const protocol::StreamHeader& header,
                                                         int64_t timeout_ms, Callback callback) {
  return start(loop, TRY(connect_unix(vsock_path)), header, timeout_ms, std::move(callback));
}

Result<std::unique_ptr<StreamDialer>> StreamDialer::start(EventLoop& loop, UniqueFd socket,
                                                          const protocol::StreamHeader& header,
                                                          int64_t timeout_ms, Callback callback) {
  std::unique_ptr<StreamDialer> dialer(
      new StreamDialer(loop, std::move(socket), std::move(callback)));
  StreamDialer* self = dialer.get();
  self->header_frame_ = framed(protocol::encode(header));
  self->stream_name_ = header.stream;
  TRY(send_with_fds(self->socket_.get(), fmt::format("CONNECT {}\n", protocol::kStreamPort), {}));
  TRY(loop.add_fd(self->socket_.get(), EPOLLIN, [self](uint32_t) { self->read_some(); }));
  self->timer_ = loop.add_timer(timeout_ms, [self] {
    self->finish(make_error(ErrorKind::kDeadlineExceeded, "no answer in time"));
  });
  return dialer;
}

StreamDialer::~StreamDialer() {
  loop_.cancel_timer(timer_);
  if (socket_) loop_.remove_fd(socket_.get());
}

void StreamDialer::read_some() {
  // Never reads past the current step: what follows the agent's answer is the stream itself.
  std::string piece(wanted_, '\0');
  const ssize_t got = recv(socket_.get(), piece.data(), piece.size(), MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got < 0) return finish(sys_error("receive"));
  if (got == 0) return finish(make_error(ErrorKind::kUnavailable, "the guest refused it"));
  received_.append(piece, 0, static_cast<size_t>(got));
  wanted_ -= static_cast<size_t>(got);
  if (wanted_ > 0) return;
  auto accepted = advance();
  if (!accepted) return finish(tl::unexpected(std::move(accepted.error())));
  if (*accepted) finish({});
}

Result<bool> StreamDialer::advance_greeting() {
  if (received_.back() != '\n') {
    if (received_.size() >= kMaxGreetingBytes)
      return invalid_argument("a greeting that is too long");
    wanted_ = 1;
    return false;
  }
  if (!received_.starts_with("OK ")) return invalid_argument("no `OK` from the VM's vsock");
  TRY(send_with_fds(socket_.get(), header_frame_, {}));
  stage_ = Stage::kReplySize;
  wanted_ = sizeof(uint32_t);
  received_.clear();
  return false;
}

Result<bool> StreamDialer::advance() {
  if (stage_ == Stage::kGreeting) return advance_greeting();
  if (stage_ == Stage::kReplySize) {
    uint32_t size = 0;
    std::memcpy(&size, received_.data(), sizeof size);
    if (size == 0 || size > protocol::kMaxStreamFrameBytes)
      return invalid_argument("an answer of a bad size");
    stage_ = Stage::kReply;
    wanted_ = size;
    received_.clear();
    return false;
  }
  TRY(protocol::decode_stream_reply(received_));
  return true;
}

void StreamDialer::finish(Result<void> outcome) {
  loop_.cancel_timer(timer_);
  loop_.remove_fd(socket_.get());
  UniqueFd socket = std::move(socket_);
  const Callback callback = std::move(callback_);
  if (outcome) return callback(std::move(socket));
  callback(tl::unexpected(
      std::move(outcome.error()).wrap(fmt::format("open the process's {}", stream_name_))));
}

}  // namespace kiln::runtime
