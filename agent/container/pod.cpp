// SPDX-License-Identifier: Apache-2.0
#include "agent/container/pod.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "agent/container/cgroup.h"
#include "agent/container/cgroup_stats.h"
#include "agent/container/namespaces.h"
#include "agent/container/process_setup.h"
#include "agent/container/rootfs.h"
#include "agent/container/sysctl.h"
#include "agent/protocol/messages.h"
#include "base/file.h"
#include "base/format.h"

namespace kiln::agent {
namespace {

constexpr int kSetUpTimeoutMs = 10'000;
constexpr uid_t kNobody = 65534;

Result<UniqueFd> open_namespace(pid_t pid, const char* type) {
  return open_file(fmt::format("/proc/{}/ns/{}", pid, type), O_RDONLY);
}

Result<void> set_up_namespaces(const oci::Spec& config, const ChildChannel& channel) {
  TRY(set_names(config));
  TRY(apply_sysctls(config));
  TRY(channel.say(ChildSays::kReady));
  // Until the agent has opened them.
  return channel.wait_for_agent();
}

// A container that shares the pid namespace sees this process, and one with CAP_SYS_PTRACE owns it:
// hence it has nothing of the guest.
Result<void> give_everything_up() {
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    return sys_error("make the mounts private");
  if (mount("none", "/run", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0555") !=
      0)
    return sys_error("mount an empty root");
  const UniqueFd root = TRY(open_file("/run", O_PATH | O_DIRECTORY));
  TRY(enter_root(root.get()));
  if (setgroups(0, nullptr) != 0 || setresgid(kNobody, kNobody, kNobody) != 0 ||
      setresuid(kNobody, kNobody, kNobody) != 0)
    return sys_error("become nobody");
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return sys_error("set no_new_privs");
  return {};
}

// pid_namespaces(7): what loses its parent becomes the first process's child. As such it ignores
// every signal that it has no handler for.
Result<void> reap_for_ever(const ChildChannel& channel) {
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, nullptr);
  prctl(PR_SET_NAME, "pod-init");
  TRY(give_everything_up());
  for (const int fd : {0, 1, 2}) close(fd);
  TRY(channel.say(ChildSays::kReady));
  close_descriptors_except({});
  sigset_t ended;
  sigemptyset(&ended);
  sigaddset(&ended, SIGCHLD);
  while (true) {
    sigwaitinfo(&ended, nullptr);
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
  }
}

// Until it says kReady. `body` runs in the process, and returns before that only to fail.
Result<ClonedProcess> launch(uint64_t flags,
                             const std::function<Result<void>(const ChildChannel&)>& body) {
  ClonePlan plan;
  plan.flags = flags;
  plan.run = [&body](const ChildChannel& channel) {
    auto done = body(channel);
    return done ? Error{} : std::move(done.error());
  };
  ClonedProcess process = TRY(clone_process(plan));
  auto ready = process.channel.go_on();
  if (ready) {
    auto said = process.channel.expect(ChildSays::kReady, kSetUpTimeoutMs);
    if (!said) ready = tl::unexpected(std::move(said.error()));
  }
  if (ready) return process;
  discard(process);
  return tl::unexpected(std::move(ready.error()));
}

bool has_ended(const ClonedProcess& process) {
  pollfd polled{process.pidfd.get(), POLLIN, 0};
  return poll(&polled, 1, 0) > 0;
}

}  // namespace

// One that has ended may have been reaped, and its number be another's.
Pod::~Pod() {
  if (init_.pid > 0 && !has_ended(init_)) discard(init_);
}

Result<std::unique_ptr<Pod>> Pod::create(const oci::Spec& config) {
  std::unique_ptr<Pod> pod(new Pod());
  TRY(pod->make_namespaces(config));
  return pod;
}

Result<void> Pod::make_namespaces(const oci::Spec& config) {
  const NamespacePlan wanted = TRY(plan_namespaces(config.linux));
  has_pid_ = (wanted.clone_flags & CLONE_NEWPID) != 0;
  const auto flags = wanted.clone_flags & static_cast<uint64_t>(CLONE_NEWIPC | CLONE_NEWUTS);
  // The guest's own host name is nobody's to change.
  if ((flags & CLONE_NEWUTS) == 0 && !(config.hostname.empty() && config.domainname.empty()))
    return invalid_argument("config.json: /hostname: the pod has no uts namespace of its own");
  ClonedProcess maker = TRY(launch(flags, [&config](const ChildChannel& channel) {
    return set_up_namespaces(config, channel);
  }));
  auto ipc = open_namespace(maker.pid, "ipc");
  auto uts = open_namespace(maker.pid, "uts");
  discard(maker);
  if ((flags & CLONE_NEWIPC) != 0) ipc_ = TRY(std::move(ipc));
  if ((flags & CLONE_NEWUTS) != 0) uts_ = TRY(std::move(uts));
  return {};
}

Result<void> Pod::make_init() {
  // The kernel kills whoever is in the namespace with it; the next container gets a new one.
  if (init_.pid > 0 && has_ended(init_)) {
    pid_.reset();
    init_ = ClonedProcess();
  }
  if (init_.pid > 0) return {};
  init_ = TRY(wrap(launch(CLONE_NEWPID | CLONE_NEWNS, reap_for_ever), "make a pid namespace"));
  init_.channel.close();
  pid_ = TRY(open_namespace(init_.pid, "pid"));
  return {};
}

Result<int> Pod::namespace_fd(int type) {
  if (type == CLONE_NEWPID && has_pid_) TRY(make_init());
  const UniqueFd& fd = type == CLONE_NEWIPC ? ipc_ : type == CLONE_NEWUTS ? uts_ : pid_;
  if (!fd)
    return make_error(ErrorKind::kFailedPrecondition,
                      "the pod has no such namespace of its own to be shared");
  return fd.get();
}

Result<protocol::StatsReply> Pod::stats() {
  const UniqueFd cgroup = TRY(open_parent_cgroup());
  return read_cgroup_stats(cgroup.get());
}

}  // namespace kiln::agent
