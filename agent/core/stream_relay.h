// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "agent/core/stream_ends.h"
#include "base/event_loop.h"

namespace kiln::agent {

// Carries bytes between a connection of the host and our ends of a process's stream. Reads only
// what the other side has room for, so that a slow reader stalls its writer and nobody else. Each
// direction ends by itself: the connection's end closes the process's standard input, the process's
// end half-closes the connection. It has finished when both have ended and the peer has closed, or
// when the connection is lost.
//
// Copies by read and write: splice(2) from a pipe to a vsock socket sends one packet per page.
class StreamRelay {
 public:
  using FinishedCallback = std::function<void()>;

  // `connection` is a non-blocking stream socket. `finished` may destroy the relay.
  static Result<std::unique_ptr<StreamRelay>> create(EventLoop& loop, UniqueFd connection,
                                                     StreamEnds ends, FinishedCallback finished);
  ~StreamRelay();
  StreamRelay(const StreamRelay&) = delete;
  StreamRelay& operator=(const StreamRelay&) = delete;

 private:
  struct Watched {
    UniqueFd fd;
    uint32_t events = 0;
    bool registered = false;
  };
  // What has been read and not been written yet, and whether more may come.
  struct Direction {
    std::string pending;
    bool ended = false;
  };
  enum class Moved { kAll, kSinkFull, kSinkLost };

  StreamRelay(EventLoop& loop, UniqueFd connection, StreamEnds ends, FinishedCallback finished);
  void handle_connection(uint32_t events);
  void handle_sink(uint32_t events);
  void settle();
  void pump_inbound();
  void pump_outbound();
  static Moved write_pending(int fd, std::string& pending);
  static Moved write_chunk(int fd, std::string_view bytes, std::string& pending);
  void end_inbound();
  void end_outbound();
  Result<void> update();
  Result<void> watch(Watched& watched, uint32_t events, bool registered,
                     EventLoop::FdCallback callback);
  void unwatch(Watched& watched);

  EventLoop& loop_;
  Watched connection_;
  Watched sink_;    // to the process; the descriptor is gone when the direction has ended
  Watched source_;  // from the process
  Direction inbound_;
  Direction outbound_;
  const bool has_output_;
  const bool duplex_;
  bool peer_ended_ = false;  // the peer sends no more
  bool lost_ = false;        // the connection takes and gives nothing more
  FinishedCallback finished_;
};

}  // namespace kiln::agent
