// SPDX-License-Identifier: Apache-2.0
#include "runtime/forward_relay.h"

#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

#include "agent/protocol/messages.h"
#include "base/file.h"
#include "base/format.h"
#include "base/unix_socket.h"
#include "vmm/api/confined_process.h"

namespace kiln::runtime {
namespace {

constexpr int64_t kTokenMs = 10'000;

Result<std::string> make_token() {
  std::array<unsigned char, protocol::kForwardTokenBytes / 2> bytes{};
  if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    return sys_error("make a token");
  std::string token;
  for (const unsigned char byte : bytes) token += fmt::format("{:02x}", byte);
  return token;
}

// By the descriptor: a path may lead elsewhere by now. It never waits.
Result<UniqueFd> connect_file(int file) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return sys_error("create a socket");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = fmt::format("/proc/self/fd/{}", file);
  std::memcpy(address.sun_path, path.data(), path.size());
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return sys_error("connect");
  return fd;
}

}  // namespace

ForwardRelay::ForwardRelay(EventLoop& loop, std::vector<Target> targets)
    : loop_(loop), targets_(std::move(targets)) {}

Result<std::unique_ptr<ForwardRelay>> ForwardRelay::listen(EventLoop& loop,
                                                           const std::string& vsock_path,
                                                           std::vector<Target> targets) {
  std::unique_ptr<ForwardRelay> relay(new ForwardRelay(loop, std::move(targets)));
  for (size_t i = 0; i < relay->targets_.size(); ++i) relay->tokens_.push_back(TRY(make_token()));
  ForwardRelay* self = relay.get();
  UniqueFd listener = TRY(self->bind(vsock_path));
  TRY(vmm::admit_confined(self->path_));
  self->acceptor_ = TRY(Acceptor::create(
      loop, std::move(listener), [self](UniqueFd guest) { self->take(std::move(guest)); },
      [self](const Error& error) { self->complain(error); }));
  return relay;
}

// The directory is that of the machine, in which other containers may have ports too.
Result<UniqueFd> ForwardRelay::bind(const std::string& vsock_path) {
  for (uint32_t i = 0; i < protocol::kForwardPorts; ++i) {
    const uint32_t port = protocol::kFirstForwardPort + i;
    const std::string path = fmt::format("{}_{}", vsock_path, port);
    auto listener = listen_unix(path, SOCK_STREAM | SOCK_NONBLOCK);
    if (!listener && listener.error().sys_errno == EADDRINUSE) continue;
    if (!listener) return listener;
    path_ = path;
    port_ = port;
    return listener;
  }
  return make_error(ErrorKind::kResourceExhausted, "the machine has no more ports for sockets");
}

ForwardRelay::~ForwardRelay() {
  if (!path_.empty()) unlink(path_.c_str());
  while (!nameless_.empty()) release(nameless_.begin()->first);
}

void ForwardRelay::complain(const Error& error) {
  if (complaints_.allow())
    log_warning("carry a connection of the guest: {}, ignoring", error.message);
}

bool ForwardRelay::guest_has_ended() const {
  return nameless_.empty() && std::all_of(bridges_.begin(), bridges_.end(), [](const auto& item) {
           return item.second.bridge->one_has_ended();
         });
}

uint64_t ForwardRelay::bytes_copied() const {
  return std::accumulate(
      bridges_.begin(), bridges_.end(), uint64_t{0},
      [](uint64_t sum, const auto& item) { return sum + item.second.bridge->bytes_copied(); });
}

void ForwardRelay::take(UniqueFd guest) {
  // The agent says its token at once: what has been silent for longest is not the agent.
  if (nameless_.size() >= kMaxNameless) release(nameless_.begin()->first);
  const uint64_t id = next_id_++;
  if (const auto watched =
          loop_.add_fd(guest.get(), EPOLLIN, [this, id](uint32_t) { read_token(id); });
      !watched)
    return complain(watched.error());
  const auto timer = loop_.add_timer(kTokenMs, [this, id] { release(id); });
  nameless_.emplace(id, Nameless{std::move(guest), {}, timer});
}

UniqueFd ForwardRelay::release(uint64_t id) {
  const auto found = nameless_.find(id);
  if (found == nameless_.end()) return {};
  loop_.cancel_timer(found->second.timer);
  loop_.remove_fd(found->second.guest.get());
  UniqueFd guest = std::move(found->second.guest);
  nameless_.erase(found);
  return guest;
}

void ForwardRelay::read_token(uint64_t id) {
  Nameless& nameless = nameless_.at(id);
  std::array<char, protocol::kForwardTokenBytes> buffer{};  // guest-controlled
  const ssize_t got =
      recv(nameless.guest.get(), buffer.data(), buffer.size() - nameless.said.size(), MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) return static_cast<void>(release(id));
  nameless.said.append(buffer.data(), static_cast<size_t>(got));
  if (nameless.said.size() < buffer.size()) return;
  const std::string token = std::move(nameless.said);
  if (const auto connected = connect(id, release(id), token); !connected)
    complain(connected.error());
}

Result<void> ForwardRelay::connect(uint64_t id, UniqueFd guest, const std::string& token) {
  const auto found = std::find(tokens_.begin(), tokens_.end(), token);
  if (found == tokens_.end()) return invalid_argument("it does not know a socket's token");
  const auto target = static_cast<size_t>(found - tokens_.begin());
  const auto count = std::count_if(bridges_.begin(), bridges_.end(),
                                   [&](const auto& item) { return item.second.target == target; });
  if (static_cast<size_t>(count) >= kMaxConnections)
    return make_error(ErrorKind::kResourceExhausted,
                      fmt::format("`{}` has {} connections already", targets_[target].path, count));
  UniqueFd host = TRY(wrap(connect_file(targets_[target].file.get()),
                           fmt::format("the host's socket for `{}`", targets_[target].path)));
  auto bridge =
      TRY(SocketBridge::create(loop_, std::move(guest), std::move(host), SocketBridge::kNeverIdle,
                               [this, id] { bridges_.erase(id); }));
  bridges_.emplace(id, Bridge{target, std::move(bridge)});
  return {};
}

}  // namespace kiln::runtime
