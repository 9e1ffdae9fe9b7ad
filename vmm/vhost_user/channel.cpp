// SPDX-License-Identifier: Apache-2.0
#include "vmm/vhost_user/channel.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "base/bytes.h"
#include "base/file.h"
#include "base/format.h"
#include "base/unix_socket.h"

namespace kiln::vmm {

using vhost_user::Request;
using vhost_user::request_name;

namespace {

// So that neither side fills the socket while the other one does.
constexpr size_t kMaxOutstanding = 32;

int64_t now_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::span<const std::byte> bytes_of(const std::string& text) { return as_bytes(text); }

}  // namespace

Result<VhostUserChannel> VhostUserChannel::create(UniqueFd socket, int64_t patience_ms) {
  const int flags = fcntl(socket.get(), F_GETFL);
  if (flags < 0 || fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK) != 0)
    return sys_error("use a vhost-user connection");
  return VhostUserChannel(std::move(socket), patience_ms);
}

tl::unexpected<Error> VhostUserChannel::fail(Request request, Error why) {
  if (!failure_) failure_ = std::move(why).wrap(request_name(request));
  outstanding_.clear();
  return tl::unexpected(*failure_);
}

Result<void> VhostUserChannel::wait(short events, int64_t deadline_ms) const {
  while (true) {
    const int64_t left = deadline_ms - now_ms();
    if (left <= 0)
      return make_error(ErrorKind::kDeadlineExceeded,
                        format("the back-end did not answer within {} ms", patience_ms_));
    pollfd one{socket_.get(), events, 0};
    const int ready = ::poll(&one, 1, static_cast<int>(std::min<int64_t>(left, 60'000)));
    if (ready > 0) return {};
    if (ready < 0 && errno != EINTR) return sys_error("wait for the back-end");
  }
}

Result<void> VhostUserChannel::write(Request request, uint32_t flags,
                                     std::span<const std::byte> payload, std::span<const int> fds,
                                     int64_t deadline_ms) {
  if (failure_) return tl::unexpected(*failure_);
  const vhost_user::Header header{static_cast<uint32_t>(request), vhost_user::kVersion | flags,
                                  static_cast<uint32_t>(payload.size())};
  std::string message(sizeof header + payload.size(), '\0');
  std::memcpy(message.data(), &header, sizeof header);
  if (!payload.empty()) std::memcpy(message.data() + sizeof header, payload.data(), payload.size());
  // A message may go out in parts when the back-end does not read; its descriptors go with the
  // first one.
  std::string_view rest = message;
  while (!rest.empty()) {
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * vhost_user::kMaxMemoryRegions)] = {};
    iovec part{const_cast<char*>(rest.data()), rest.size()};
    msghdr envelope{};
    envelope.msg_iov = &part;
    envelope.msg_iovlen = 1;
    if (!fds.empty()) {
      envelope.msg_control = control;
      envelope.msg_controllen = CMSG_SPACE(fds.size_bytes());
      cmsghdr* rights = CMSG_FIRSTHDR(&envelope);
      rights->cmsg_level = SOL_SOCKET;
      rights->cmsg_type = SCM_RIGHTS;
      rights->cmsg_len = CMSG_LEN(fds.size_bytes());
      std::memcpy(CMSG_DATA(rights), fds.data(), fds.size_bytes());
    }
    const ssize_t sent =
        retry_eintr([&] { return sendmsg(socket_.get(), &envelope, MSG_NOSIGNAL); });
    if (sent >= 0) {
      rest.remove_prefix(static_cast<size_t>(sent));
      fds = {};
    } else if (errno == EAGAIN) {
      const Result<void> room = wait(POLLOUT, deadline_ms);
      if (!room) return fail(request, room.error());
    } else {
      return fail(request, sys_error("send").value());
    }
  }
  return {};
}

Result<void> VhostUserChannel::send(Request request, std::span<const std::byte> payload,
                                    std::span<const int> fds) {
  if (fds.size() > vhost_user::kMaxMemoryRegions || payload.size() > vhost_user::kMaxPayload)
    return invalid_argument(format("{}: message is too large", request_name(request)));
  const int64_t deadline = now_ms() + patience_ms_;
  if (outstanding_.size() >= kMaxOutstanding) {
    // A refusal is told when everything is settled.
    const Result<void> settled = settle_by(deadline);
    if (!settled && failure_) return settled;
    if (!settled) refusal_ = settled.error();
  }
  TRY(write(request, acknowledges_ ? vhost_user::kFlagNeedReply : 0, payload, fds, deadline));
  outstanding_.push_back(request);
  return {};
}

Result<std::string> VhostUserChannel::read_bytes(size_t size, int64_t deadline_ms) {
  std::string bytes;
  while (bytes.size() < size) {
    auto part = receive_with_fds(socket_.get(), size - bytes.size());
    if (!part) {
      if (part.error().sys_errno != EAGAIN) return tl::unexpected(std::move(part.error()));
      TRY(wait(POLLIN, deadline_ms));
      continue;
    }
    if (part->bytes.empty())
      return make_error(ErrorKind::kUnavailable, "the back-end has closed the connection");
    // No answer that we ask for has any; they are closed unseen.
    if (!part->fds.empty())
      return invalid_argument(format("{} descriptors in an answer", part->fds.size()));
    bytes += part->bytes;
  }
  return bytes;
}

Result<std::string> VhostUserChannel::read_answer(Request request, size_t payload_size,
                                                  bool may_be_empty, int64_t deadline_ms) {
  if (failure_) return tl::unexpected(*failure_);
  const auto head = read_bytes(sizeof(vhost_user::Header), deadline_ms);
  if (!head) return fail(request, head.error());
  vhost_user::Header header;
  std::memcpy(&header, head->data(), sizeof header);
  if (header.request != static_cast<uint32_t>(request))
    return fail(request, invalid_argument(format("answer to request {}", header.request)).value());
  if ((header.flags & vhost_user::kVersionMask) != vhost_user::kVersion ||
      (header.flags & vhost_user::kFlagReply) == 0)
    return fail(request, invalid_argument(format("answer with flags {:#x}", header.flags)).value());
  if (header.size == 0 && may_be_empty) return std::string();
  if (header.size != payload_size)
    return fail(request, invalid_argument(
                             format("answer of {} bytes instead of {}", header.size, payload_size))
                             .value());
  auto payload = read_bytes(payload_size, deadline_ms);
  if (!payload) return fail(request, payload.error());
  return payload;
}

Result<void> VhostUserChannel::settle() { return settle_by(now_ms() + patience_ms_); }

Result<void> VhostUserChannel::settle_by(int64_t deadline_ms) {
  if (failure_) return tl::unexpected(*failure_);
  if (!acknowledges_ && !outstanding_.empty()) {
    // Requests are done in order: once this one is answered, the others are done.
    outstanding_.clear();
    TRY(write(Request::kGetFeatures, 0, {}, {}, deadline_ms));
    TRY(read_answer(Request::kGetFeatures, sizeof(uint64_t), false, deadline_ms));
    return {};
  }
  for (const Request request : std::exchange(outstanding_, {})) {
    const std::string answer = TRY(read_answer(request, sizeof(uint64_t), false, deadline_ms));
    const auto status = ByteReader(bytes_of(answer)).read<uint64_t>();
    if (status != 0U && !refusal_)
      refusal_ = make_error(ErrorKind::kFailedPrecondition,
                            format("{}: the back-end refuses", request_name(request)))
                     .value();
  }
  if (!refusal_) return {};
  return tl::unexpected(*std::exchange(refusal_, std::nullopt));
}

Result<std::string> VhostUserChannel::ask(Request request, std::span<const std::byte> payload,
                                          size_t answer_size, bool may_be_empty) {
  const int64_t deadline = now_ms() + patience_ms_;
  if (acknowledges_) TRY(settle_by(deadline));
  outstanding_.clear();  // without acknowledgements this answer stands for theirs
  TRY(write(request, 0, payload, {}, deadline));
  return read_answer(request, answer_size, may_be_empty, deadline);
}

Result<uint64_t> VhostUserChannel::ask_u64(Request request) {
  const std::string answer = TRY(ask(request, {}, sizeof(uint64_t), false));
  return ByteReader(bytes_of(answer)).read<uint64_t>().value_or(0);
}

Result<vhost_user::VringState> VhostUserChannel::ask_vring_base(unsigned index) {
  constexpr Request kRequest = Request::kGetVringBase;
  const vhost_user::VringState question{index, 0};
  const std::string answer =
      TRY(ask(kRequest, std::as_bytes(std::span(&question, 1)), sizeof question, false));
  const auto state = ByteReader(bytes_of(answer)).read<vhost_user::VringState>().value_or(question);
  if (state.index != index || state.num > UINT16_MAX)
    return fail(
        kRequest,
        invalid_argument(format("answer says ring {} at {:#x}", state.index, state.num)).value());
  return state;
}

Result<std::vector<std::byte>> VhostUserChannel::ask_config(uint32_t size) {
  constexpr Request kRequest = Request::kGetConfig;
  if (size > vhost_user::kMaxConfigSize) return invalid_argument("configuration is too large");
  const vhost_user::ConfigHead question{0, size, 0};
  std::vector<std::byte> payload(sizeof question + size);
  std::memcpy(payload.data(), &question, sizeof question);
  const std::string answer = TRY(ask(kRequest, payload, payload.size(), true));
  if (answer.empty())
    return make_error(ErrorKind::kFailedPrecondition,
                      format("{}: the back-end refuses {} bytes", request_name(kRequest), size));
  ByteReader reader(bytes_of(answer));
  const auto head = reader.read<vhost_user::ConfigHead>().value_or(vhost_user::ConfigHead{});
  if (head.offset != 0 || head.size != size)
    return fail(
        kRequest,
        invalid_argument(format("answer says {} bytes from {}", head.size, head.offset)).value());
  return std::vector<std::byte>(reader.rest().begin(), reader.rest().end());
}

Result<void> VhostUserChannel::check_silence() {
  if (failure_) return tl::unexpected(*failure_);
  char byte = 0;
  const ssize_t size =
      retry_eintr([&] { return recv(socket_.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT); });
  if (size < 0 && errno == EAGAIN) return {};
  if (size < 0) {
    failure_ = sys_error("read from the back-end").value();
  } else if (size == 0) {
    failure_ =
        make_error(ErrorKind::kUnavailable, "the back-end has closed the connection").value();
  } else {
    failure_ = invalid_argument("the back-end speaks unasked").value();
  }
  return tl::unexpected(*failure_);
}

}  // namespace kiln::vmm
