// SPDX-License-Identifier: Apache-2.0
#include "runtime/passed_fds.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>

#include "base/file.h"
#include "base/format.h"
#include "base/log.h"

namespace kiln::runtime {
namespace {

using protocol::Passed;

Result<size_t> number_in(const char* variable) {
  const char* text = std::getenv(variable);
  const std::string_view digits = text == nullptr ? "" : text;
  if (digits.empty()) return size_t{0};
  size_t value = 0;
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (parsed.ec != std::errc() || parsed.ptr != digits.data() + digits.size())
    return invalid_argument(fmt::format("{}: must be a number, is `{}`", variable, digits));
  return value;
}

int socket_option(int fd, int option) {
  int value = 0;
  socklen_t size = sizeof value;
  return getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 ? value : 0;
}

std::string name_of(int fd) {
  std::array<char, 256> target{};
  const std::string link = fmt::format("/proc/self/fd/{}", fd);
  const ssize_t size = readlink(link.c_str(), target.data(), target.size());
  return size > 0 ? std::string(target.data(), static_cast<size_t>(size)) : "?";
}

tl::unexpected<Error> cannot_pass(int fd) {
  return make_error(ErrorKind::kUnimplemented,
                    fmt::format("descriptor {} (`{}`) cannot be passed into a VM: only listening "
                                "and connected stream sockets and pipes can",
                                fd, name_of(fd)));
}

Result<Passed> kind_of(int fd) {
  struct stat info {};
  if (fstat(fd, &info) != 0) return sys_error(fmt::format("stat descriptor {}", fd));
  if (S_ISFIFO(info.st_mode)) {
    const int access = fcntl(fd, F_GETFL) & O_ACCMODE;
    if (access == O_RDONLY) return Passed::kReader;
    if (access == O_WRONLY) return Passed::kWriter;
  }
  if (!S_ISSOCK(info.st_mode) || socket_option(fd, SO_TYPE) != SOCK_STREAM) return cannot_pass(fd);
  if (socket_option(fd, SO_ACCEPTCONN) != 0) return Passed::kListener;
  sockaddr_storage peer{};
  socklen_t size = sizeof peer;
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) != 0) return cannot_pass(fd);
  return Passed::kSocket;
}

}  // namespace

Result<size_t> listen_fds() {
  if (TRY(number_in("LISTEN_PID")) != static_cast<size_t>(getpid())) return size_t{0};
  return number_in("LISTEN_FDS");
}

Result<std::vector<Passed>> passed_kinds(size_t count, size_t preserved) {
  if (count > protocol::kMaxPassedFds)
    return invalid_argument(fmt::format("at most {} descriptors can be passed into a VM, not {}",
                                        protocol::kMaxPassedFds, count));
  std::vector<Passed> kinds;
  for (size_t i = 0; i < count; ++i) {
    const int fd = protocol::kFirstPassedFd + static_cast<int>(i);
    const size_t first_preserved = count - preserved;
    // One that we have opened ourselves was not passed.
    const int flags = fcntl(fd, F_GETFD);
    if ((flags < 0 || (flags & FD_CLOEXEC) != 0) && i >= first_preserved)
      return sys_error(fmt::format("unable to stat preserved-fd {} (of {}): stat /proc/self/fd/{}",
                                   i - first_preserved, preserved, fd),
                       ENOENT);
    kinds.push_back(TRY(kind_of(fd)));
  }
  return kinds;
}

Result<std::unique_ptr<PassedListener>> PassedListener::create(EventLoop& loop, UniqueFd listener,
                                                               Options options) {
  // Whoever else has the socket would be surprised by this, were it not the container's now:
  // between its readiness and an accept(2) that waits the peer may have gone.
  const int flags = fcntl(listener.get(), F_GETFL);
  if (flags < 0 || fcntl(listener.get(), F_SETFL, flags | O_NONBLOCK) != 0)
    return sys_error("make a listening socket non-blocking");
  std::unique_ptr<PassedListener> made(
      new PassedListener(loop, std::move(listener), std::move(options)));
  TRY(made->watch());
  return made;
}

PassedListener::~PassedListener() {
  *alive_ = false;
  stop_accepting();
}

Result<void> PassedListener::watch() {
  if (watching_ || held_ || !listener_ || connections_.size() >= kMaxConnections) return {};
  TRY(loop_.add_fd(listener_.get(), EPOLLIN, [this](uint32_t) { accept_some(); }));
  watching_ = true;
  return {};
}

void PassedListener::hold(bool held) {
  held_ = held;
  if (held && watching_) {
    loop_.remove_fd(listener_.get());
    watching_ = false;
  }
  if (const auto watched = watch(); !watched) log_error("{}", watched.error().message);
}

void PassedListener::stop_accepting() {
  if (watching_) loop_.remove_fd(listener_.get());
  watching_ = false;
  listener_.reset();
}

bool PassedListener::guest_has_ended() const {
  return std::all_of(connections_.begin(), connections_.end(), [](const auto& item) {
    return item.second.outward && item.second.outward->done();
  });
}

uint64_t PassedListener::bytes_copied() const {
  uint64_t sum = 0;
  for (const auto& [id, connection] : connections_) {
    for (const auto& relay : {&connection.inward, &connection.outward})
      sum += *relay ? (*relay)->bytes_copied() : 0;
  }
  return sum;
}

void PassedListener::accept_some() {
  UniqueFd peer(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (peer) return dial(std::move(peer));
  if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return;
  log_warning("accept a connection for the container's {}: {}, ignoring", options_.header.stream,
              errno_text(errno));
  // It would be ready without end.
  loop_.remove_fd(listener_.get());
  watching_ = false;
}

void PassedListener::dial(UniqueFd peer) {
  const uint64_t id = next_id_++;
  protocol::StreamHeader header = options_.header;
  if (options_.stream_of) header.stream = options_.stream_of(peer.get());
  connections_[id].peer = std::move(peer);
  if (connections_.size() >= kMaxConnections) {
    loop_.remove_fd(listener_.get());
    watching_ = false;
  }
  auto dialer =
      StreamDialer::dial(loop_, options_.vsock_path, header, options_.dial_timeout_ms,
                         [this, id](Result<UniqueFd> stream) { dialed(id, std::move(stream)); });
  if (!dialer) return dialed(id, tl::unexpected(std::move(dialer.error())));
  connections_[id].dialer = std::move(*dialer);
}

void PassedListener::dialed(uint64_t id, Result<UniqueFd> stream) {
  if (stream && carry(id, std::move(*stream))) return;
  // The process has closed its listener, as a rule: the peer sees a connection that ends, and over
  // TCP, as from a kernel whose listener has gone, that is reset.
  if (const UniqueFd& peer = connections_.at(id).peer) {
    const linger reset{.l_onoff = 1, .l_linger = 0};
    setsockopt(peer.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  }
  drop_later(id);
}

Result<void> PassedListener::carry(uint64_t id, UniqueFd stream) {
  Connection& connection = connections_.at(id);
  UniqueFd stream_too(fcntl(stream.get(), F_DUPFD_CLOEXEC, 3));
  UniqueFd peer_too(fcntl(connection.peer.get(), F_DUPFD_CLOEXEC, 3));
  if (!stream_too || !peer_too) return sys_error("duplicate a connection");
  const auto ended = [this, id] {
    const Connection& one = connections_.at(id);
    if (one.inward->done() && one.outward->done()) drop_later(id);
  };
  connection.inward =
      TRY(Relay::create(loop_, std::move(connection.peer), std::move(stream_too), ended));
  connection.outward = TRY(Relay::create(loop_, std::move(stream), std::move(peer_too), ended));
  return {};
}

void PassedListener::drop_later(uint64_t id) {
  loop_.defer([this, id, alive = alive_] {
    if (!*alive) return;
    connections_.erase(id);
    if (const auto watched = watch(); !watched) log_error("{}", watched.error().message);
  });
}

}  // namespace kiln::runtime
