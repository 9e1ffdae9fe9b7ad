// SPDX-License-Identifier: Apache-2.0
#include "base/event_loop.h"

#include <sys/epoll.h>
#include <sys/signalfd.h>

#include <algorithm>
#include <array>
#include <ctime>

namespace kiln {
namespace {

int64_t monotonic_ms() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

// The fd alone does not name a source: it may have been closed and reused within one batch of
// events.
uint64_t event_key(int fd, uint64_t generation) {
  return (generation << 32) | static_cast<uint32_t>(fd);
}

}  // namespace

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
  UniqueFd epoll_fd(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_fd) return sys_error("create an epoll instance");
  return std::unique_ptr<EventLoop>(new EventLoop(std::move(epoll_fd)));
}

EventLoop::~EventLoop() = default;

Result<void> EventLoop::add_fd(int fd, uint32_t events, FdCallback callback) {
  const uint64_t generation = next_id_++ & 0xffffffffU;
  epoll_event event{};
  event.events = events;
  event.data.u64 = event_key(fd, generation);
  if (epoll_ctl(epoll_fd_.get(), EPOLL_CTL_ADD, fd, &event) != 0)
    return sys_error("watch a descriptor");
  sources_[fd] = std::make_shared<Source>(Source{std::move(callback), generation});
  return {};
}

Result<void> EventLoop::modify_fd(int fd, uint32_t events) {
  const auto found = sources_.find(fd);
  if (found == sources_.end()) return make_error(ErrorKind::kNotFound, "descriptor is not watched");
  epoll_event event{};
  event.events = events;
  event.data.u64 = event_key(fd, found->second->generation);
  if (epoll_ctl(epoll_fd_.get(), EPOLL_CTL_MOD, fd, &event) != 0)
    return sys_error("watch a descriptor");
  return {};
}

void EventLoop::remove_fd(int fd) {
  if (sources_.erase(fd) != 0) epoll_ctl(epoll_fd_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

EventLoop::TimerId EventLoop::add_timer(int64_t milliseconds, TimerCallback callback) {
  const TimerId id = next_id_++;
  timers_.push_back(Timer{id, monotonic_ms() + milliseconds, std::move(callback)});
  return id;
}

void EventLoop::cancel_timer(TimerId id) {
  std::erase_if(timers_, [id](const Timer& timer) { return timer.id == id; });
}

void EventLoop::defer(TimerCallback callback) { deferred_.push_back(std::move(callback)); }

Result<void> EventLoop::handle_signals(const std::vector<int>& signals, SignalCallback callback) {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : signals) sigaddset(&set, number);
  if (const int failed = pthread_sigmask(SIG_BLOCK, &set, nullptr); failed != 0) {
    return sys_error("block signals", failed);
  }
  signal_fd_.reset(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signal_fd_) return sys_error("create a signalfd");
  const int fd = signal_fd_.get();
  return add_fd(fd, EPOLLIN, [fd, callback = std::move(callback)](uint32_t) {
    ::signalfd_siginfo info{};
    while (::read(fd, &info, sizeof info) == static_cast<ssize_t>(sizeof info)) callback(info);
  });
}

Result<void> EventLoop::run() {
  running_ = true;
  while (running_) TRY(run_once(-1));
  return {};
}

Result<void> EventLoop::run_once(int timeout_ms) {
  if (!deferred_.empty()) {
    run_deferred();
    timeout_ms = 0;
  }
  std::array<epoll_event, 32> events{};
  const int count = epoll_wait(epoll_fd_.get(), events.data(), static_cast<int>(events.size()),
                               timeout_until_next_timer(timeout_ms));
  if (count < 0 && errno != EINTR) return sys_error("wait for events");
  for (int i = 0; i < count; ++i) {
    const auto& event = events[static_cast<size_t>(i)];
    const auto found = sources_.find(static_cast<int>(event.data.u64 & 0xffffffffU));
    if (found == sources_.end() || found->second->generation != event.data.u64 >> 32) continue;
    const std::shared_ptr<Source> keep_alive = found->second;  // the callback may remove itself
    keep_alive->callback(event.events);
  }
  run_due_timers();
  run_deferred();
  return {};
}

int EventLoop::timeout_until_next_timer(int timeout_ms) const {
  if (!deferred_.empty()) return 0;
  if (timers_.empty()) return timeout_ms;
  const auto next = std::min_element(
      timers_.begin(), timers_.end(),
      [](const Timer& a, const Timer& b) { return a.deadline_ms < b.deadline_ms; });
  const int64_t remaining = std::clamp<int64_t>(next->deadline_ms - monotonic_ms(), 0, 1 << 30);
  return timeout_ms < 0 ? static_cast<int>(remaining)
                        : std::min(timeout_ms, static_cast<int>(remaining));
}

void EventLoop::run_due_timers() {
  const int64_t now = monotonic_ms();
  while (true) {
    const auto due = std::find_if(timers_.begin(), timers_.end(),
                                  [now](const Timer& timer) { return timer.deadline_ms <= now; });
    if (due == timers_.end()) return;
    const TimerCallback callback = std::move(due->callback);
    timers_.erase(due);
    callback();
  }
}

void EventLoop::run_deferred() {
  std::vector<TimerCallback> ready;
  ready.swap(deferred_);
  for (const TimerCallback& callback : ready) callback();
}

}  // namespace kiln
