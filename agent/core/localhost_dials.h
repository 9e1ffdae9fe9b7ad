// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/unique_fd.h"

namespace kiln::agent {

// Connections to TCP ports of localhost that are being made, each to 127.0.0.1 and, if nobody takes
// it there, to ::1. Used by the event loop's thread. Destroying it gives all of them up without
// calling back.
class LocalhostDials {
 public:
  // Once; the socket is non-blocking.
  using Done = std::function<void(Result<UniqueFd> socket)>;

  static constexpr size_t kMaxDials = 256;       // at a time
  static constexpr int64_t kTimeoutMs = 10'000;  // for both addresses

  explicit LocalhostDials(EventLoop& loop, int64_t timeout_ms = kTimeoutMs)
      : loop_(loop), timeout_ms_(timeout_ms) {}
  ~LocalhostDials();
  LocalhostDials(const LocalhostDials&) = delete;
  LocalhostDials& operator=(const LocalhostDials&) = delete;

  // May call back at once.
  void dial(uint16_t port, Done done);

 private:
  struct Dial {
    uint16_t port = 0;
    Done done;
    size_t tried = 0;  // addresses
    UniqueFd socket;
    EventLoop::TimerId timer = 0;
  };

  void try_next(uint64_t id, Error last);
  void look(uint64_t id);
  void finish(uint64_t id, Result<UniqueFd> outcome);

  EventLoop& loop_;
  const int64_t timeout_ms_;
  std::map<uint64_t, Dial> dials_;
  uint64_t next_id_ = 1;
};

}  // namespace kiln::agent
