// SPDX-License-Identifier: Apache-2.0
#include "agent/container/clone_process.h"

#include <linux/close_range.h>
#include <linux/sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "base/file.h"

namespace kiln::agent {
namespace {

constexpr int kHelperTimeoutMs = 10'000;

void reset_signals() {
  for (int number = 1; number < NSIG; ++number) signal(number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

[[noreturn]] void run_process(const ClonePlan& plan, const ChildChannel& channel) {
  std::vector<int> kept = plan.fds;
  kept.push_back(channel.fd());
  close_descriptors_except(std::move(kept));
  reset_signals();
  if (channel.wait_for_agent()) channel.say_error(plan.run(channel));
  _exit(1);
}

Result<pid_t> clone_child(const ClonePlan& plan) {
  clone_args args{};
  // Its parent is the agent, and so is the receiver of SIGCHLD (clone(2), CLONE_PARENT).
  args.flags = plan.flags | CLONE_PARENT;
  if (plan.cgroup_fd >= 0) {
    args.flags |= CLONE_INTO_CGROUP;
    args.cgroup = static_cast<uint64_t>(plan.cgroup_fd);
  }
  const long pid = syscall(SYS_clone3, &args, sizeof args);
  if (pid < 0) return sys_error("create the process");
  return static_cast<pid_t>(pid);
}

[[noreturn]] void run_helper(const ClonePlan& plan, const ChildChannel& channel) {
  // The process has the agent's memory until it execs: nobody in the container may trace it, not
  // even in its first moment, so it inherits this.
  prctl(PR_SET_DUMPABLE, 0);
  Result<void> prepared = plan.prepare ? plan.prepare() : Result<void>();
  if (!prepared) {
    channel.say_error(prepared.error());
    _exit(1);
  }
  const auto pid = clone_child(plan);
  if (pid && *pid == 0) run_process(plan, channel);
  if (!pid) channel.say_error(pid.error());
  if (pid) static_cast<void>(channel.say_pid(*pid));
  _exit(pid ? 0 : 1);
}

Result<pid_t> receive_pid(const ChildChannel& channel) {
  ChildMessage message = TRY(channel.receive(kHelperTimeoutMs));
  if (message.what == ChildSays::kFailed) return tl::unexpected(std::move(message.error));
  if (message.what != ChildSays::kPid || message.pid <= 0)
    return make_error(ErrorKind::kInternal, "create the process: its helper ended early");
  return message.pid;
}

}  // namespace

void close_descriptors_except(std::vector<int> kept) {
  std::sort(kept.begin(), kept.end());
  unsigned first = 3;
  for (const int fd : kept) {
    const auto number = static_cast<unsigned>(std::max(fd, 2));
    if (number > first) syscall(SYS_close_range, first, number - 1, 0);
    first = std::max(first, number + 1);
  }
  syscall(SYS_close_range, first, ~0U, 0);
}

Result<ClonedProcess> clone_process(const ClonePlan& plan) {
  auto [ours, theirs] = TRY(ChildChannel::create());
  const pid_t helper = fork();
  if (helper < 0) return sys_error("fork");
  if (helper == 0) run_helper(plan, theirs);
  theirs.close();
  const auto pid = receive_pid(ours);
  if (!pid) ::kill(helper, SIGKILL);
  retry_eintr([&] { return waitpid(helper, nullptr, 0); });
  if (!pid) return tl::unexpected(pid.error());
  ClonedProcess process;
  process.pid = *pid;
  // Ours and not reaped yet, so the number is still its own.
  process.pidfd.reset(static_cast<int>(syscall(SYS_pidfd_open, *pid, 0)));
  process.channel = std::move(ours);
  if (!process.pidfd) {
    auto failed = sys_error("open a pidfd");
    discard(process);
    return failed;
  }
  return process;
}

void discard(ClonedProcess& process) {
  if (process.pid <= 0) return;
  ::kill(process.pid, SIGKILL);
  retry_eintr([&] { return waitpid(process.pid, nullptr, 0); });
  process = ClonedProcess();
}

}  // namespace kiln::agent
