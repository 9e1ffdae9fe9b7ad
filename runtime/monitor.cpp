// SPDX-License-Identifier: Apache-2.0
#include "runtime/monitor.h"

#include <fcntl.h>
#include <malloc.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <utility>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/format.h"
#include "base/log.h"
#include "base/process.h"
#include "base/unix_socket.h"
#include "runtime/cgroup/host_cgroup.h"
#include "runtime/container_delete.h"
#include "runtime/monitor_impl.h"
#include "runtime/signals.h"

namespace kiln::runtime {
namespace {

constexpr int64_t kDrainIdleMs = 5000;
constexpr int64_t kLastWordsMs = 1000;
constexpr int64_t kShrinkMs = 500;  // after the last request
constexpr int kFailedCode = 1;
constexpr int kKilledCode = 128 + SIGKILL;

std::string path_of_dir() {
  std::array<char, 4096> buffer{};
  const std::string link = fmt::format("/proc/self/fd/{}", kDirFd);
  const ssize_t size = readlink(link.c_str(), buffer.data(), buffer.size());
  return size > 0 ? std::string(buffer.data(), static_cast<size_t>(size)) : std::string();
}

}  // namespace

Monitor::Monitor(EventLoop& loop, MainThread& main_thread)
    : loop_(loop),
      main_thread_(main_thread),
      dir_(path_of_dir(), UniqueFd(kDirFd)),
      sync_(kSyncFd) {
  static_cast<void>(loop_.handle_signals(
      forwarded_signals(), [this](const ::signalfd_siginfo& info) { handle_signal(info); }));
}

void Monitor::interrupt(Error reason) {
  if (!failure_) failure_ = std::move(reason);
}

void Monitor::handle_signal(const ::signalfd_siginfo& info) {
  const int number = static_cast<int>(info.ssi_signo);
  // From the kernel: our terminal's. Its end reaches the guest through the stream.
  const bool from_kernel = info.ssi_code > 0;
  if (number == SIGWINCH && pty_slave_) return resize_from_pty();
  if (from_kernel || ending()) return;
  if (creating_) {
    const bool fatal = number == SIGTERM || number == SIGINT || number == SIGQUIT;
    if (fatal)
      interrupt(make_error(ErrorKind::kCancelled, fmt::format("interrupted by signal {}", number))
                    .value());
    return;
  }
  signal_container(number, false, "", [number](const Result<Json>& done) {
    if (!done) log_warning("forward signal {}: {}, ignoring", number, done.error().message);
  });
}

void Monitor::resize_from_pty() {
  const auto size = window_size(pty_slave_.get());
  if (!size || sandbox_ == nullptr || sandbox_->agent() == nullptr) return;
  protocol::ResizeRequest request{record_.state.id, "", size->ws_row, size->ws_col};
  sandbox_->agent()->request("resize", protocol::to_json(request), 0, [](const Result<Json>&) {});
}

void Monitor::handle_exit(const protocol::ExitEvent& event) {
  if (event.container_id != record_.state.id) {
    if (members_) members_->handle_exit(event);
    return;
  }
  if (!event.process_id.empty()) {
    const auto found = exec_connections_.find(event.process_id);
    if (found == exec_connections_.end()) return;
    control_->send_event(found->second, {"exit", protocol::to_json(event)});
    exec_connections_.erase(found);
    return;
  }
  if (event.oom_killed) note_oom();
  begin_end(event.signal != 0 ? 128 + event.signal : event.exit_code);
}

void Monitor::handle_oom(const protocol::OomEvent& event) {
  if (event.container_id == record_.state.id) {
    note_oom();
    return tell_oom();
  }
  if (members_) members_->handle_oom(event);
}

// Said once: a guest can make it happen as often as it likes.
void Monitor::note_oom() {
  if (!record_.oom_killed)
    log_warning("container {}: a process was killed, out of memory (OOM)", record_.state.id);
  record_.oom_killed = true;
}

void Monitor::tell_oom() {
  std::erase_if(watchers_, [this](ControlServer::ConnectionId watcher) {
    return !control_->offer_event(watcher,
                                  {"oom", protocol::to_json(protocol::OomEvent{record_.state.id})});
  });
}

void Monitor::handle_notify(const protocol::NotifyEvent& event) {
  if (members_ && members_->handle_notify(event)) return;
  if (!notify_ || event.container_id != record_.state.id) return;
  if (const auto told = notify_->tell(event.lines); !told)
    log_warning("{}, ignoring", told.error().message);
  if (notify_->ready()) answer_start();
}

void Monitor::answer_start() {
  const auto answer = std::move(awaiting_ready_);
  awaiting_ready_ = nullptr;
  if (answer) answer();
}

void Monitor::handle_lost(Error reason) {
  if (creating_) {
    reason.message = with_console(std::move(reason.message));
    return interrupt(std::move(reason));
  }
  log_error("{}", reason.message);
  if (!ending()) exit_code_ = kKilledCode;
  finish();
}

// The process has ended; what it wrote may still be on its way.
void Monitor::begin_end(int exit_code) {
  if (ending()) return;
  if (creating_) {
    return interrupt(make_error(ErrorKind::kAborted,
                                fmt::format("its init ended early, with code {}", exit_code))
                         .value());
  }
  exit_code_ = exit_code;
  volumes_.reset();
  if (!io_) return drain_forwards();
  io_->drain(kDrainIdleMs, [this] { drain_forwards(); });
}

void Monitor::drain_forwards() {
  if (!forwards_) return finish_in_order();
  forwards_->drain(kDrainIdleMs, [this] { finish_in_order(); });
}

// The answer to `start` and the poststart hooks come first, however short the process was.
void Monitor::finish_in_order() {
  drained_ = true;
  if (starting_) return;
  if (joined_ == nullptr || !joined_->has_drives()) return finish();
  // Whoever hears of the end may remove the disk at once: nobody is to have it open then.
  if (!std::exchange(leaving_, true)) joined_->leave([this] { finish(); });
}

void Monitor::finish() {
  if (finished_) return;
  finished_ = true;
  answer_start();
  refuse_execs(make_error(ErrorKind::kFailedPrecondition, "container not running").value());
  volumes_.reset();
  sandbox_->stop();
  leave_network();
  record_.exit_code = exit_code_;
  if (auto saved = save_status("stopped"); !saved) log_error("{}", saved.error().message);
  // Whoever waits for an answer gets it before the connections end with us.
  if (control_ == nullptr || control_->sent_everything()) return loop_.stop();
  loop_.add_timer(kLastWordsMs, [this] { loop_.stop(); });
}

Result<void> Monitor::save_status(const std::string& status) {
  record_.state.status = status;
  return dir_.write_record(record_);
}

std::string Monitor::hook_state(const std::string& status) const {
  oci::State state = record_.state;
  state.status = status;
  return dump_json(oci::to_json(state));
}

// What a request needed, an idle monitor does not: most of its life it waits.
void Monitor::shrink_later() {
  if (shrink_timer_) loop_.cancel_timer(*shrink_timer_);
  shrink_timer_ = loop_.add_timer(kShrinkMs, [this] {
    shrink_timer_.reset();
    malloc_trim(0);
    release_program_pages();
  });
}

int Monitor::serve() {
  shrink_later();
  // Box: the guest goes with its command. Otherwise nobody is at the other end any more.
  if (!ends_with_creator_) {
    loop_.remove_fd(sync_.get());
    sync_.reset();
  }
  if (failure_) {  // it came between the last step of create and here
    exit_code_ = kKilledCode;
    finish();
    return kKilledCode;
  }
  if (auto ran = loop_.run(); !ran) log_error("{}", ran.error().message);
  return exit_code_.value_or(kFailedCode);
}

bool Monitor::announce() {
  // Whoever hears of it may delete it at once, and then waits for the lock that we still hold.
  if (!send_frame(sync_.get(), encode_outcome({}))) {
    creator_is_gone_ = true;
    return false;
  }
  dir_.unlock();
  return true;
}

void Monitor::abandon() {
  hooks_.reset();
  io_.reset();
  forwards_.reset();
  volumes_.reset();
  members_.reset();
  control_.reset();
  if (sandbox_) sandbox_->stop();
  leave_network();
  if (net_devices_) net_devices_->give_back();
  if (!creator_is_gone_) return;
  record_.state.status = "stopped";
  static_cast<void>(dir_.write_record(record_));
  leave_cgroup(record_.cgroup, origin_);
  if (auto removed = remove_container(dir_, record_); !removed)
    log_error("clean up: {}", removed.error().message);
}

namespace {

int monitor_container(MainThread& main_thread) {
  auto loop = EventLoop::create();
  if (!loop) return kFailedCode;
  Monitor monitor(**loop, main_thread);
  const auto created = monitor.create();
  if (!created) {
    monitor.abandon();
    static_cast<void>(send_frame(kSyncFd, encode_outcome(created)));
    return kFailedCode;
  }
  if (!monitor.announce()) {
    monitor.abandon();
    return kFailedCode;
  }
  return monitor.serve();
}

}  // namespace

bool is_monitor(int argc, char** argv) {
  return argc == 5 && std::string_view(argv[1]) == "--root" &&
         std::string_view(argv[3]) == "monitor" && fcntl(kSyncFd, F_GETFD) >= 0 &&
         fcntl(kDirFd, F_GETFD) >= 0 && fcntl(kLogFd, F_GETFD) >= 0;
}

int run_monitor() {
  signal(SIGPIPE, SIG_IGN);
  for (const int fd : {kSyncFd, kDirFd, kLogFd, kConsoleFd}) fcntl(fd, F_SETFD, FD_CLOEXEC);
  MainThread main_thread;
  return main_thread.run([&main_thread] { return monitor_container(main_thread); });
}

}  // namespace kiln::runtime
