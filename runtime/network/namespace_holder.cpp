// SPDX-License-Identifier: Apache-2.0
#include "runtime/network/namespace_holder.h"

#include <linux/sched.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>

#include "base/file.h"
#include "base/format.h"

namespace kiln::runtime {
namespace {

[[noreturn]] void hold(pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);  // before prctl
  while (true) pause();
}

// user_namespaces(7): its root is our user, the only one that exists in it.
Result<void> map_ids(pid_t pid) {
  const std::string directory = fmt::format("/proc/{}/", pid);
  TRY(write_file(directory + "setgroups", "deny"));
  TRY(write_file(directory + "uid_map", fmt::format("0 {} 1", geteuid())));
  return write_file(directory + "gid_map", fmt::format("0 {} 1", getegid()));
}

}  // namespace

Result<NamespaceHolder> NamespaceHolder::start() {
  const pid_t parent = getpid();
  int pidfd = -1;
  clone_args args{};
  args.flags = CLONE_NEWUSER | CLONE_NEWNET | CLONE_PIDFD;
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  args.exit_signal = SIGCHLD;
  const auto pid = static_cast<pid_t>(syscall(SYS_clone3, &args, sizeof args));
  if (pid < 0) return sys_error("create user and network namespaces");
  if (pid == 0) hold(parent);
  NamespaceHolder holder(ChildProcess{pid, UniqueFd(pidfd)});
  TRY(wrap(map_ids(pid), "set up a user namespace"));
  return holder;
}

std::string NamespaceHolder::path(const char* type) const {
  return fmt::format("/proc/{}/ns/{}", process_.pid, type);
}

Result<UniqueFd> NamespaceHolder::open_network() const { return open_file(path("net"), O_RDONLY); }

}  // namespace kiln::runtime
