// SPDX-License-Identifier: Apache-2.0
#include "base/relay.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>

#include "base/file.h"
#include "base/format.h"

namespace kiln {
namespace {

constexpr size_t kChunkBytes = size_t{64} << 10;
// A pipe that polls writable has room for one page (pipe(7)), so that this never blocks.
constexpr size_t kSafeWriteBytes = 4096;
// How much one relay may copy before others get their turn.
constexpr unsigned kTurnsPerRun = 16;

// One for all relays: what a sink does not take is copied out of it at once.
std::array<char, kChunkBytes>& scratch() {
  static std::array<char, kChunkBytes> buffer;
  return buffer;
}

bool is_pty_slave(const struct stat& info) {
  return S_ISCHR(info.st_mode) && major(info.st_rdev) >= 136 && major(info.st_rdev) <= 143;
}

// A second open file of the same pipe or terminal, so that O_NONBLOCK does not hit those who share
// the first.
UniqueFd reopen_nonblocking(int fd, bool writing) {
  const int flags = (writing ? O_WRONLY : O_RDONLY) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
  return UniqueFd(open(fmt::format("/proc/self/fd/{}", fd).c_str(), flags));
}

bool ready_now(int fd, short events) {
  pollfd polled{fd, events, 0};
  return poll(&polled, 1, 0) > 0;
}

}  // namespace

Relay::End Relay::prepare(UniqueFd fd, bool writing) {
  End end;
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) info.st_mode = S_IFREG;
  end.is_socket = S_ISSOCK(info.st_mode);
  const int flags = fcntl(fd.get(), F_GETFL);
  end.nonblocking = end.is_socket || (flags >= 0 && (flags & O_NONBLOCK) != 0);
  end.pollable = !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode) && !S_ISBLK(info.st_mode);
  if (!end.nonblocking && (S_ISFIFO(info.st_mode) || is_pty_slave(info))) {
    if (UniqueFd own = reopen_nonblocking(fd.get(), writing)) {
      fd = std::move(own);
      end.nonblocking = true;
    }
  }
  end.fd = std::move(fd);
  return end;
}

Result<std::unique_ptr<Relay>> Relay::create(EventLoop& loop, UniqueFd source, UniqueFd sink,
                                             DoneCallback on_done) {
  std::unique_ptr<Relay> relay(new Relay(loop, std::move(on_done)));
  relay->source_ = prepare(std::move(source), false);
  relay->sink_ = prepare(std::move(sink), true);
  relay->wait_for(relay->source_, EPOLLIN, relay->sink_);
  return relay;
}

Relay::~Relay() {
  *alive_ = false;
  unwatch(source_);
  unwatch(sink_);
}

Result<void> Relay::watch(End& end, uint32_t events) {
  if (end.watched) return {};
  TRY(loop_.add_fd(end.fd.get(), events, [this](uint32_t) { run(); }));
  end.watched = true;
  return {};
}

void Relay::unwatch(End& end) {
  if (end.watched) loop_.remove_fd(end.fd.get());
  end.watched = false;
}

void Relay::wait_for(End& wanted, uint32_t events, End& other) {
  unwatch(other);
  if (wanted.pollable) {
    if (watch(wanted, events)) return;
    wanted.pollable = false;  // /dev/null and its like: epoll refuses them, and they never block
  }
  run_later();
}

void Relay::run_later() {
  if (scheduled_) return;
  scheduled_ = true;
  loop_.defer([this, alive = alive_] {
    if (!*alive) return;
    scheduled_ = false;
    if (!done_) run();
  });
}

Relay::Step Relay::write_some(const char* data, size_t size, size_t& written) {
  written = 0;
  while (written < size) {
    size_t part = size - written;
    if (sink_.pollable && !sink_.nonblocking) {
      if (!ready_now(sink_.fd.get(), POLLOUT)) return Step::kWait;
      part = std::min(part, kSafeWriteBytes);
    }
    const ssize_t done =
        sink_.is_socket ? send(sink_.fd.get(), data + written, part, MSG_DONTWAIT | MSG_NOSIGNAL)
                        : write(sink_.fd.get(), data + written, part);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0 && errno == EAGAIN) return Step::kWait;
    if (done < 0) return Step::kEnded;
    written += static_cast<size_t>(done);
    bytes_copied_ += static_cast<size_t>(done);
  }
  return Step::kMoved;
}

Relay::Step Relay::read_some() {
  auto& buffer = scratch();
  if (source_.pollable && !source_.nonblocking && !ready_now(source_.fd.get(), POLLIN))
    return nothing_to_read();
  const ssize_t got =
      source_.is_socket
          ? recv(source_.fd.get(), buffer.data(), buffer.size(), MSG_DONTWAIT)
          : retry_eintr([&] { return read(source_.fd.get(), buffer.data(), buffer.size()); });
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return nothing_to_read();
  if (got <= 0) {  // also EIO: the other side of a terminal has gone
    source_ended_ = true;
    return Step::kEnded;
  }
  size_t written = 0;
  const Step step = write_some(buffer.data(), static_cast<size_t>(got), written);
  if (step == Step::kWait) {
    pending_.assign(buffer.data() + written, static_cast<size_t>(got) - written);
  }
  return step;
}

Relay::Step Relay::nothing_to_read() {
  if (!source_ending_) return Step::kWait;
  source_ended_ = true;
  return Step::kEnded;
}

void Relay::end_source() {
  if (done_ || source_ending_) return;
  source_ending_ = true;
  run_later();
}

void Relay::run() {
  if (done_) return;
  for (unsigned turn = 0; turn < kTurnsPerRun; ++turn) {
    Step step = Step::kMoved;
    if (!pending_.empty()) {
      size_t written = 0;
      step = write_some(pending_.data(), pending_.size(), written);
      pending_.erase(0, written);
      if (pending_.empty()) std::string().swap(pending_);
    } else {
      step = read_some();
    }
    if (step == Step::kEnded) return finish(!source_ended_);
    if (step == Step::kWait) break;
  }
  if (pending_.empty()) {
    wait_for(source_, EPOLLIN, sink_);
  } else {
    wait_for(sink_, EPOLLOUT, source_);
  }
}

void Relay::finish(bool sink_failed) {
  done_ = true;
  unwatch(source_);
  unwatch(sink_);
  if (!sink_failed && sink_.is_socket) shutdown(sink_.fd.get(), SHUT_WR);
  // A tty's stream is one socket in two descriptors: closing ours alone would tell its peer
  // nothing.
  if (sink_failed && source_.is_socket) shutdown(source_.fd.get(), SHUT_RD);
  source_.fd.reset();
  sink_.fd.reset();
  const DoneCallback on_done = std::move(on_done_);
  if (on_done) on_done();
}

}  // namespace kiln
