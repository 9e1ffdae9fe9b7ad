// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/signalfd.h>

#include <csignal>
#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln {

// An epoll loop. One thread owns it and calls everything on it. Callbacks may add, modify and
// remove any source, also their own; a removed source's callback is not called again, not even for
// an event already fetched.
class EventLoop {
 public:
  // `events`: EPOLLIN | EPOLLOUT | EPOLLHUP | EPOLLERR … as epoll reports them.
  using FdCallback = std::function<void(uint32_t events)>;
  using TimerCallback = std::function<void()>;
  using SignalCallback = std::function<void(const ::signalfd_siginfo&)>;
  using TimerId = uint64_t;

  static Result<std::unique_ptr<EventLoop>> create();
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // The loop does not own `fd`; remove it before closing it. Level-triggered unless `events` has
  // EPOLLET.
  Result<void> add_fd(int fd, uint32_t events, FdCallback callback);
  Result<void> modify_fd(int fd, uint32_t events);
  void remove_fd(int fd);  // unknown fds are ignored
  bool has_fd(int fd) const { return sources_.contains(fd); }

  // One shot, after `milliseconds` of CLOCK_MONOTONIC.
  TimerId add_timer(int64_t milliseconds, TimerCallback callback);
  void cancel_timer(TimerId id);

  // Runs before the loop waits next. For work that must not happen inside the current callback.
  void defer(TimerCallback callback);

  // Blocks these signals in the calling thread and delivers them here (signalfd). One call per
  // loop.
  Result<void> handle_signals(const std::vector<int>& signals, SignalCallback callback);

  // Runs until stop(). Returns an error only if epoll itself fails.
  Result<void> run();
  void stop() { running_ = false; }
  // Handles what is ready, waits at most `timeout_ms` (-1: for ever) for the first event.
  Result<void> run_once(int timeout_ms);

 private:
  struct Source {
    FdCallback callback;
    uint64_t generation;
  };
  struct Timer {
    TimerId id;
    int64_t deadline_ms;
    TimerCallback callback;
  };

  explicit EventLoop(UniqueFd epoll_fd) : epoll_fd_(std::move(epoll_fd)) {}
  int timeout_until_next_timer(int timeout_ms) const;
  void run_due_timers();
  void run_deferred();

  UniqueFd epoll_fd_;
  UniqueFd signal_fd_;
  std::unordered_map<int, std::shared_ptr<Source>> sources_;
  std::vector<Timer> timers_;
  std::vector<TimerCallback> deferred_;
  uint64_t next_id_ = 1;
  bool running_ = false;
};

}  // namespace kiln
