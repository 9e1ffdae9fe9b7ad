// SPDX-License-Identifier: Apache-2.0
#include "agent/core/stream_relay.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>

#include "base/file.h"

namespace kiln::agent {
namespace {

// One vsock packet of Linux carries at most 64 KiB.
constexpr size_t kChunkBytes = 65536;
// Then the other descriptors have their turn.
constexpr int kChunksPerTurn = 8;

// A terminal whose other side is closed gives EIO where a pipe gives 0.
struct ReadChunk {
  std::string_view bytes;
  bool ended = false;
  bool empty = false;
};
ReadChunk read_chunk(int fd, std::array<char, kChunkBytes>& buffer) {
  const ssize_t got = retry_eintr([&] { return read(fd, buffer.data(), buffer.size()); });
  if (got > 0) return {.bytes = {buffer.data(), static_cast<size_t>(got)}};
  if (got < 0 && errno == EAGAIN) return {.empty = true};
  return {.ended = true};
}

}  // namespace

StreamRelay::StreamRelay(EventLoop& loop, UniqueFd connection, StreamEnds ends,
                         FinishedCallback finished)
    : loop_(loop),
      connection_{std::move(connection)},
      sink_{std::move(ends.to_process)},
      source_{std::move(ends.from_process)},
      has_output_(source_.fd.valid()),
      duplex_(ends.duplex),
      finished_(std::move(finished)) {
  inbound_.ended = !sink_.fd;
  outbound_.ended = !source_.fd;
}

Result<std::unique_ptr<StreamRelay>> StreamRelay::create(EventLoop& loop, UniqueFd connection,
                                                         StreamEnds ends,
                                                         FinishedCallback finished) {
  std::unique_ptr<StreamRelay> relay(
      new StreamRelay(loop, std::move(connection), std::move(ends), std::move(finished)));
  TRY(relay->update());
  return relay;
}

StreamRelay::~StreamRelay() {
  unwatch(connection_);
  unwatch(sink_);
  unwatch(source_);
}

void StreamRelay::handle_connection(uint32_t events) {
  const bool hung_up = (events & (EPOLLHUP | EPOLLERR)) != 0;
  if ((events & EPOLLOUT) != 0) pump_outbound();
  if ((events & EPOLLIN) != 0 || hung_up) pump_inbound();
  if (hung_up) {
    lost_ = true;
    end_outbound();
    // A terminal hangs up; standard input still gets what the peer sent before.
    if (has_output_) end_inbound();
  }
  settle();
}

void StreamRelay::handle_sink(uint32_t events) {
  if ((events & EPOLLOUT) != 0) pump_inbound();
  // Nobody has the process's end open any more.
  if ((events & (EPOLLHUP | EPOLLERR)) != 0) end_inbound();
  settle();
}

// Watches what there is to wait for, or finishes.
void StreamRelay::settle() {
  // The peer closes first, when it has read everything. Standard input has nothing to be read.
  const bool finished = inbound_.ended && outbound_.ended && (peer_ended_ || lost_ || !has_output_);
  // epoll_ctl fails for want of memory alone, and then nothing would ever move again.
  if (!finished && update()) return;
  unwatch(connection_);
  unwatch(sink_);
  unwatch(source_);
  const FinishedCallback callback = std::move(finished_);
  finished_ = nullptr;
  if (callback) callback();
}

void StreamRelay::pump_inbound() {
  std::array<char, kChunkBytes> buffer;
  for (int chunk = 0; chunk < kChunksPerTurn; ++chunk) {
    if (!inbound_.ended) {
      const Moved moved = write_pending(sink_.fd.get(), inbound_.pending);
      if (moved == Moved::kSinkFull) return;
      if (moved == Moved::kSinkLost) end_inbound();
    }
    if (peer_ended_) return;
    const ReadChunk read = read_chunk(connection_.fd.get(), buffer);
    if (read.empty) return;
    if (read.ended) {
      // Nothing is pending here. At once: nobody waits for the connection to be readable from now
      // on, so there may be no further turn.
      peer_ended_ = true;
      return end_inbound();
    }
    if (inbound_.ended) continue;  // nobody takes it
    const Moved moved = write_chunk(sink_.fd.get(), read.bytes, inbound_.pending);
    if (moved == Moved::kSinkLost) end_inbound();
  }
}

void StreamRelay::pump_outbound() {
  std::array<char, kChunkBytes> buffer;
  for (int chunk = 0; chunk < kChunksPerTurn && !outbound_.ended; ++chunk) {
    Moved moved = write_pending(connection_.fd.get(), outbound_.pending);
    if (moved == Moved::kSinkFull) return;
    if (moved == Moved::kSinkLost) return end_outbound();
    const ReadChunk read = read_chunk(source_.fd.get(), buffer);
    if (read.empty) return;
    if (read.ended) return end_outbound();
    moved = write_chunk(connection_.fd.get(), read.bytes, outbound_.pending);
    if (moved == Moved::kSinkLost) return end_outbound();
  }
}

StreamRelay::Moved StreamRelay::write_chunk(int fd, std::string_view bytes, std::string& pending) {
  while (!bytes.empty()) {
    const ssize_t put = retry_eintr([&] { return write(fd, bytes.data(), bytes.size()); });
    if (put < 0 && errno != EAGAIN) return Moved::kSinkLost;
    if (put < 0) {
      pending = bytes;
      return Moved::kSinkFull;
    }
    bytes.remove_prefix(static_cast<size_t>(put));
  }
  return Moved::kAll;
}

StreamRelay::Moved StreamRelay::write_pending(int fd, std::string& pending) {
  if (pending.empty()) return Moved::kAll;
  const std::string bytes = std::move(pending);
  pending = std::string();
  return write_chunk(fd, bytes, pending);
}

void StreamRelay::end_inbound() {
  if (inbound_.ended) return;
  inbound_.ended = true;
  inbound_.pending = std::string();
  // Closing ours alone would tell the process nothing: the other direction has the socket too.
  if (duplex_) shutdown(sink_.fd.get(), SHUT_WR);
  unwatch(sink_);
}

void StreamRelay::end_outbound() {
  if (outbound_.ended) return;
  outbound_.ended = true;
  outbound_.pending = std::string();
  unwatch(source_);
  shutdown(connection_.fd.get(), SHUT_WR);
  if (!duplex_) end_inbound();  // of a terminal
}

Result<void> StreamRelay::update() {
  uint32_t events = 0;
  if (!peer_ended_ && inbound_.pending.empty()) events |= EPOLLIN;
  if (!outbound_.pending.empty()) events |= EPOLLOUT;
  // EPOLLHUP cannot be switched off, and a lost connection would report it without end.
  const bool stalled = lost_ && events == 0;
  TRY(watch(connection_, events, !stalled, [this](uint32_t ready) { handle_connection(ready); }));
  TRY(watch(sink_, inbound_.pending.empty() ? 0 : uint32_t{EPOLLOUT}, true,
            [this](uint32_t ready) { handle_sink(ready); }));
  return watch(source_, EPOLLIN, outbound_.pending.empty(), [this](uint32_t) {
    pump_outbound();
    settle();
  });
}

Result<void> StreamRelay::watch(Watched& watched, uint32_t events, bool registered,
                                EventLoop::FdCallback callback) {
  if (!watched.fd) return {};
  if (registered && !watched.registered) {
    TRY(loop_.add_fd(watched.fd.get(), events, std::move(callback)));
  } else if (registered && events != watched.events) {
    TRY(loop_.modify_fd(watched.fd.get(), events));
  } else if (!registered && watched.registered) {
    loop_.remove_fd(watched.fd.get());
  }
  watched.registered = registered;
  watched.events = events;
  return {};
}

void StreamRelay::unwatch(Watched& watched) {
  if (watched.registered) loop_.remove_fd(watched.fd.get());
  watched.registered = false;
  watched.fd.reset();
}

}  // namespace kiln::agent
