// SPDX-License-Identifier: Apache-2.0
// Copying one direction of a byte stream inside an event loop, with back-pressure.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/unique_fd.h"

namespace kiln {

// Copies from `source` to `sink` until the source ends or the sink fails. Both may be sockets,
// pipes, terminals, files or devices. At the source's end a sink that is a socket is shut down for
// writing and any other is closed; when the sink has failed, the source is closed, so that its
// writer learns of it. Neither ever blocks the loop, although a descriptor that others share is
// not made non-blocking.
class Relay {
 public:
  // Once; it may destroy the relay.
  using DoneCallback = std::function<void()>;

  static Result<std::unique_ptr<Relay>> create(EventLoop& loop, UniqueFd source, UniqueFd sink,
                                               DoneCallback on_done);
  ~Relay();
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;

  // Copies what the source has to give at this moment, and then takes it for ended.
  void end_source();

  bool done() const { return done_; }
  // Moves whenever a byte does; to see whether a stream is idle.
  uint64_t bytes_copied() const { return bytes_copied_; }
  // Waits for its sink: it is not idle, whatever bytes_copied() says.
  bool blocked() const { return !pending_.empty(); }

 private:
  struct End {
    UniqueFd fd;
    bool is_socket = false;
    bool pollable = false;
    // Whether read and write return at once; else a write to a ready pipe is kept short.
    bool nonblocking = false;
    bool watched = false;
  };
  enum class Step { kMoved, kWait, kEnded };

  Relay(EventLoop& loop, DoneCallback on_done) : loop_(loop), on_done_(std::move(on_done)) {}
  static End prepare(UniqueFd fd, bool writing);
  Result<void> watch(End& end, uint32_t events);
  void unwatch(End& end);
  void run();
  void run_later();
  Step read_some();
  Step nothing_to_read();
  Step write_some(const char* data, size_t size, size_t& written);
  void wait_for(End& wanted, uint32_t events, End& other);
  void finish(bool sink_failed);

  EventLoop& loop_;
  DoneCallback on_done_;
  End source_;
  End sink_;
  std::string pending_;  // read, and not yet taken by the sink
  uint64_t bytes_copied_ = 0;
  bool source_ending_ = false;
  bool source_ended_ = false;
  bool done_ = false;
  bool scheduled_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace kiln
