// SPDX-License-Identifier: Apache-2.0
#include "agent/core/container_entry.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>

#include "agent/core/proc_info.h"
#include "base/format.h"
#include "base/log.h"
#include "oci/spec.h"

namespace kiln::agent {
namespace {

constexpr int64_t kFirstKillWaitMs = 2;
constexpr int64_t kLongestKillWaitMs = 100;
// A process that does not die of SIGKILL sleeps in the kernel, on a share whose server is stuck.
constexpr int64_t kKillPatienceMs = 10'000;
constexpr int64_t kSettleIdleMs = 5000;
constexpr int64_t kSettleLookMs = 10;
constexpr int64_t kServedDialMs = 5000;
constexpr size_t kMaxDials = 32;  // each has a process

int64_t clock_ns(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}
int64_t monotonic_ms() { return clock_ns(CLOCK_MONOTONIC) / 1'000'000; }

tl::unexpected<Error> not_running() {
  // In runc's words, which engines look for.
  return make_error(ErrorKind::kFailedPrecondition, "container not running");
}

}  // namespace

ContainerEntry::ContainerEntry(Context context, std::string id)
    : context_(std::move(context)), id_(std::move(id)) {}

Result<std::unique_ptr<ContainerEntry>> ContainerEntry::create(
    const Context& context, const ContainerFactory& factory, const ContainerSetup& setup,
    const protocol::StdioRequest& stdio) {
  std::unique_ptr<ContainerEntry> entry(new ContainerEntry(context, setup.id));
  ProcessFds theirs;
  Process process;
  const bool terminal = setup.spec->process->terminal;
  process.stdio = TRY(ProcessStdio::create(stdio, terminal, theirs));
  entry->container_ = TRY(factory(setup, std::move(theirs)));
  StartedProcess& init = entry->container_->init();
  entry->init_pid_ = process.started.pid = init.pid;
  process.started.pty_master = std::move(init.pty_master);
  process.started.pidfd.reset(fcntl(init.pidfd.get(), F_DUPFD_CLOEXEC, 3));
  if (!process.started.pidfd) return sys_error("duplicate a pidfd");
  TRY(entry->adopt("", std::move(process)));
  TRY(entry->watch_oom());
  return entry;
}

int ContainerEntry::init_pidfd() const { return init_exit_ ? -1 : container_->init().pidfd.get(); }

ContainerEntry::~ContainerEntry() {
  unwatch_oom();
  if (started_) context_.loop.remove_fd(container_->start_fd());
  if (kill_timer_ != 0) context_.loop.cancel_timer(kill_timer_);
  context_.loop.cancel_timer(settle_timer_);
  if (sync_pid_ > 0) context_.reaper.forget(sync_pid_);
  for (const auto& [id, process] : processes_)
    if (!process.ended) context_.reaper.forget(process.started.pid);
}

Result<void> ContainerEntry::adopt(const std::string& process_id, Process process) {
  if (process.started.pty_master)
    TRY(process.stdio.set_terminal(std::move(process.started.pty_master)));
  context_.reaper.expect(process.started.pid, [this, process_id](const ExitStatus& status) {
    process_ended(process_id, status);
  });
  processes_.emplace(process_id, std::move(process));
  return {};
}

Result<ContainerEntry::Process*> ContainerEntry::find(const std::string& process_id) {
  const auto found = processes_.find(process_id);
  if (found == processes_.end())
    return make_error(ErrorKind::kNotFound, fmt::format("no process `{}`", process_id));
  return &found->second;
}

Result<void> ContainerEntry::start(StartCallback started) {
  if (start_called_)
    return make_error(ErrorKind::kFailedPrecondition, "the container has been started already");
  if (init_exit_) return not_running();
  TRY(container_->begin_start());
  TRY(context_.loop.add_fd(container_->start_fd(), EPOLLIN,
                           [this](uint32_t) { finish_starting(); }));
  start_called_ = true;
  started_ = std::move(started);
  return {};
}

void ContainerEntry::finish_starting() {
  context_.loop.remove_fd(container_->start_fd());
  const StartCallback started = std::move(started_);
  started_ = nullptr;
  started(container_->finish_start());
  tell_if_complete();
}

Result<pid_t> ContainerEntry::exec(const std::string& process_id, const oci::Process& process,
                                   const protocol::StdioRequest& stdio) {
  if (processes_.contains(process_id))
    return make_error(ErrorKind::kAlreadyExists, fmt::format("process `{}` exists", process_id));
  if (init_exit_) return not_running();
  if (frozen_) {
    return make_error(ErrorKind::kFailedPrecondition,
                      "the container is paused");  // the new process would freeze before its exec
  }
  ProcessFds theirs;
  Process entry;
  entry.stdio = TRY(ProcessStdio::create(stdio, process.terminal, theirs));
  entry.started = TRY(container_->exec(process, std::move(theirs)));
  const pid_t pid = entry.started.pid;
  if (auto adopted = adopt(process_id, std::move(entry)); !adopted) {
    ::kill(pid, SIGKILL);  // not reaped yet, so the number is still its own
    return tl::unexpected(std::move(adopted.error()));
  }
  return pid;
}

Result<void> ContainerEntry::signal(const protocol::SignalRequest& request) {
  if (request.all) return init_exit_ ? not_running() : container_->signal_all(request.signal);
  const Process* process = TRY(find(request.process_id));
  if (process->ended) return not_running();
  if (syscall(SYS_pidfd_send_signal, process->started.pidfd.get(), request.signal, nullptr, 0) != 0)
    return sys_error(fmt::format("send signal {}", request.signal));
  return {};
}

Result<void> ContainerEntry::resize(const protocol::ResizeRequest& request) {
  Process* process = TRY(find(request.process_id));
  return process->stdio.resize(request.rows, request.columns);
}

Result<void> ContainerEntry::freeze(bool frozen) {
  if (init_exit_) return not_running();
  TRY(container_->freeze(frozen));
  frozen_ = frozen;
  return {};
}

Result<void> ContainerEntry::update(const oci::Resources& resources) {
  if (init_exit_) return not_running();
  return container_->update(resources);
}

Result<void> ContainerEntry::refresh(size_t mount, const std::string& version) {
  if (init_exit_) return not_running();
  return container_->refresh(mount, version);
}

Result<protocol::StatsReply> ContainerEntry::stats() const {
  if (init_exit_) return not_running();
  return container_->stats();
}

Result<protocol::ProcessesReply> ContainerEntry::processes() const {
  const std::vector<pid_t> pids = TRY(container_->processes());
  return describe_processes(pids);
}

void ContainerEntry::take_stream(const protocol::StreamHeader& header, StreamCallback opened) {
  const auto served = protocol::served_index(header.stream);
  if (!served) return opened(take_stdio(header));
  auto dialing = dial_served(*served, opened);
  if (!dialing) opened(tl::unexpected(std::move(dialing.error())));
}

Result<void> ContainerEntry::dial_served(size_t index, const StreamCallback& opened) {
  if (index >= served_.size())
    return make_error(ErrorKind::kNotFound, fmt::format("no served socket {}", index));
  if (init_exit_) return not_running();
  if (dials_.size() >= kMaxDials)
    return make_error(ErrorKind::kResourceExhausted, "too many connections are being made");
  const uint64_t id = next_dial_++;
  ContainerDial::Callbacks callbacks;
  callbacks.on_done = [opened](Result<UniqueFd> socket) {
    opened(ends_of_socket(std::move(socket)));
  };
  callbacks.on_gone = [this, id] { dials_.erase(id); };
  dials_[id] =
      TRY(ContainerDial::start({context_.loop, context_.reaper, kServedDialMs},
                               container_->root_fd(), served_[index], std::move(callbacks)));
  return {};
}

Result<StreamEnds> ContainerEntry::take_stdio(const protocol::StreamHeader& header) {
  Process* process = TRY(find(header.process_id));
  StreamEnds ends = TRY(process->stdio.take(header.stream));
  forget_if_done(header.process_id);
  return ends;
}

void ContainerEntry::stream_ended(const protocol::StreamHeader& header) {
  const auto found = processes_.find(header.process_id);
  // Without the master here and in the relay, the kernel hangs the terminal up.
  if (found != processes_.end() && header.stream == "tty") found->second.stdio.close_terminal();
}

void ContainerEntry::forget_if_done(const std::string& process_id) {
  const auto found = processes_.find(process_id);
  const bool done =
      found != processes_.end() && found->second.ended && found->second.stdio.all_taken();
  if (done && !process_id.empty()) processes_.erase(found);
}

void ContainerEntry::process_ended(const std::string& process_id, const ExitStatus& status) {
  processes_.at(process_id).ended = true;
  read_oom_kills();
  protocol::ExitEvent event;
  event.container_id = id_;
  event.process_id = process_id;
  event.exit_code = status.code;
  event.signal = status.signal;
  event.oom_killed = oom_kills_ > 0;
  event.exited_at_ns = clock_ns(CLOCK_REALTIME);
  if (process_id.empty()) {
    init_exit_ = std::move(event);
    kill_wait_ms_ = kFirstKillWaitMs;
    killing_since_ms_ = monotonic_ms();
    return kill_others();
  }
  context_.on_exit(event);
  forget_if_done(process_id);
}

bool ContainerEntry::others_ended() const {
  return std::all_of(processes_.begin(), processes_.end(),
                     [](const auto& item) { return item.second.ended; });
}

Result<void> ContainerEntry::kill_all() {
  if (init_exit_) return {};  // under way
  return container_->signal_all(SIGKILL);
}

// With a pid namespace of its own the kernel has done this already; otherwise others live on, and
// hold the streams and the root file system.
void ContainerEntry::kill_others() {
  kill_timer_ = 0;
  const auto left = container_->processes();
  if (left && left->empty() && others_ended()) return sync_share();
  if (monotonic_ms() - killing_since_ms_ > kKillPatienceMs) {
    log_warning("container `{}`: {} processes survive SIGKILL, ignoring", id_,
                left ? left->size() : 0);
    return sync_share();
  }
  if (!left || !left->empty()) {
    if (const auto killed = container_->signal_all(SIGKILL); !killed)
      log_warning("container `{}`: {}, trying again", id_, killed.error().message);
  }
  kill_timer_ = context_.loop.add_timer(kill_wait_ms_, [this] { kill_others(); });
  kill_wait_ms_ = std::min(kill_wait_ms_ * 2, kLongestKillWaitMs);
}

void ContainerEntry::sync_share() {
  const auto done = [this] {
    synced_ = true;
    uint64_t seen = 0;
    for (const auto& socket : forward_sockets_) seen += socket->bytes_copied();
    settle_forwards(kSettleIdleMs, seen);
  };
  const auto child = context_.guest.begin_sync();
  // The child has it too: a file system on a drive is written back and unmounted at its end, while
  // this process answers others.
  container_->release_root();
  if (!child) log_warning("write the share back: {}, ignoring", child.error().message);
  if (!child || *child <= 0) return done();
  sync_pid_ = *child;
  context_.reaper.expect(sync_pid_, [this, done](const ExitStatus& status) {
    sync_pid_ = -1;
    if (status.shell_code() != 0) {
      log_warning("write the share back: {}, ignoring",
                  errno_text(status.signal != 0 ? EINTR : status.code));
    }
    done();
  });
}

// The host ends its side as soon as it hears of the end.
void ContainerEntry::settle_forwards(int64_t left_ms, uint64_t seen) {
  settle_timer_ = 0;
  uint64_t bytes = 0;
  bool settled = true;
  for (const auto& socket : forward_sockets_) {
    settled = socket->settle() && settled;
    bytes += socket->bytes_copied();
  }
  if (bytes != seen) left_ms = kSettleIdleMs;
  if (!settled && left_ms > 0) {
    settle_timer_ = context_.loop.add_timer(
        kSettleLookMs, [this, left_ms, bytes] { settle_forwards(left_ms - kSettleLookMs, bytes); });
    return;
  }
  settled_ = true;
  tell_if_complete();
}

void ContainerEntry::tell_if_complete() {
  if (!init_exit_ || !settled_ || started_ || told_) return;
  read_oom_kills();
  init_exit_->oom_killed = oom_kills_ > 0;
  told_ = true;
  context_.on_exit(*init_exit_);
}

Result<void> ContainerEntry::watch_oom() {
  const int fd = container_->memory_events_fd();
  if (fd < 0) return {};
  // cgroup-v2.rst, "memory.events": a change raises a file modified event. It comes with EPOLLERR,
  // which stays until the file is read: hence edges.
  TRY(context_.loop.add_fd(fd, EPOLLPRI | EPOLLET, [this](uint32_t) { read_oom_kills(); }));
  watching_oom_ = true;
  return {};
}

void ContainerEntry::unwatch_oom() {
  if (watching_oom_) context_.loop.remove_fd(container_->memory_events_fd());
  watching_oom_ = false;
}

// The kernel tells at most every 10 ms (cgroup_file_notify), so a container cannot flood the host.
void ContainerEntry::read_oom_kills() {
  const auto kills = container_->oom_kills();
  if (!kills || *kills <= oom_kills_) return;
  oom_kills_ = *kills;
  context_.on_oom({id_});
}

Result<void> ContainerEntry::destroy() {
  unwatch_oom();
  return container_->destroy();
}

}  // namespace kiln::agent
