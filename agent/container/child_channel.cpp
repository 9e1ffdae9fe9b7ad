// SPDX-License-Identifier: Apache-2.0
#include "agent/container/child_channel.h"

#include <fcntl.h>
#include <poll.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "agent/container/container.h"
#include "base/file.h"
#include "base/unix_socket.h"

namespace kiln::agent {
namespace {

constexpr size_t kMaxText = 4096;
constexpr std::string_view kGo = "g";

template <typename T>
void append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

template <typename T>
bool take(std::string_view& bytes, T& out) {
  if (bytes.size() < sizeof out) return false;
  std::memcpy(&out, bytes.data(), sizeof out);
  bytes.remove_prefix(sizeof out);
  return true;
}

Result<ChildMessage> not_understood() {
  return make_error(ErrorKind::kInternal, "the new process said something else than expected");
}

Result<ChildMessage> parse(ReceivedMessage received) {
  ChildMessage message;
  if (received.bytes.empty()) return message;
  std::string_view rest = received.bytes;
  message.what = static_cast<ChildSays>(rest.front());
  rest.remove_prefix(1);
  if (!received.fds.empty()) message.fd = std::move(received.fds.front());
  switch (message.what) {
    case ChildSays::kReady:
    case ChildSays::kExecuting:
      return message;
    case ChildSays::kPid:
      if (!take(rest, message.pid)) return not_understood();
      return message;
    case ChildSays::kFailed: {
      int kind = 0;
      if (!take(rest, kind) || !take(rest, message.error.sys_errno)) return not_understood();
      const bool known = kind >= static_cast<int>(ErrorKind::kCancelled) &&
                         kind <= static_cast<int>(ErrorKind::kDataLoss);
      message.error.kind = known ? static_cast<ErrorKind>(kind) : ErrorKind::kUnknown;
      message.error.message = rest;
      return message;
    }
    case ChildSays::kClosed:
      break;
  }
  return not_understood();
}

}  // namespace

Result<std::pair<ChildChannel, ChildChannel>> ChildChannel::create() {
  auto [ours, low] = TRY(socket_pair(SOCK_SEQPACKET));
  // Out of the way of what the process is to have there.
  UniqueFd theirs(fcntl(low.get(), F_DUPFD_CLOEXEC, kAbovePassed));
  if (!theirs) return sys_error("duplicate a channel");
  return std::pair(ChildChannel(std::move(ours)), ChildChannel(std::move(theirs)));
}

Result<void> ChildChannel::say(ChildSays what, int fd) const {
  const char byte = static_cast<char>(what);
  return send_with_fds(socket_.get(), {&byte, 1}, std::span(&fd, fd < 0 ? 0U : 1U));
}

Result<void> ChildChannel::say_pid(pid_t pid) const {
  std::string bytes(1, static_cast<char>(ChildSays::kPid));
  append(bytes, pid);
  return send_with_fds(socket_.get(), bytes, {});
}

void ChildChannel::say_error(const Error& error) const {
  std::string bytes(1, static_cast<char>(ChildSays::kFailed));
  append(bytes, static_cast<int>(error.kind));
  append(bytes, error.sys_errno);
  bytes.append(error.message, 0, kMaxText);
  static_cast<void>(send_with_fds(socket_.get(), bytes, {}));
}

Result<void> ChildChannel::wait_for_agent() const {
  const ReceivedMessage received = TRY(receive_with_fds(socket_.get(), kGo.size()));
  if (received.bytes != kGo) return make_error(ErrorKind::kCancelled, "given up by the agent");
  return {};
}

Result<ChildMessage> ChildChannel::receive(int timeout_ms) const {
  pollfd polled{socket_.get(), POLLIN, 0};
  const int ready = retry_eintr([&] { return poll(&polled, 1, timeout_ms); });
  if (ready < 0) return sys_error("wait for the new process");
  if (ready == 0)
    return make_error(ErrorKind::kDeadlineExceeded, "the new process does not answer");
  return parse(TRY(receive_with_fds(socket_.get(), kMaxText + 64)));
}

Result<ChildMessage> ChildChannel::expect(ChildSays wanted, int timeout_ms) const {
  ChildMessage message = TRY(receive(timeout_ms));
  if (message.what == wanted) return message;
  if (message.what == ChildSays::kFailed) return tl::unexpected(std::move(message.error));
  return make_error(ErrorKind::kAborted, "the new process ended before its program ran");
}

Result<void> ChildChannel::go_on() const { return send_with_fds(socket_.get(), kGo, {}); }

}  // namespace kiln::agent
