// SPDX-License-Identifier: Apache-2.0
#include "agent/container/launch.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include "agent/container/clone_process.h"
#include "agent/container/devices.h"
#include "agent/container/hooks.h"
#include "agent/container/mount_calls.h"
#include "agent/container/mounts.h"
#include "agent/container/process_attributes.h"
#include "agent/container/process_setup.h"
#include "agent/container/protected_paths.h"
#include "agent/container/root_paths.h"
#include "agent/container/rootfs.h"
#include "agent/container/sysctl.h"
#include "agent/container/terminal.h"

namespace kiln::agent {
namespace {

Result<void> own_session(const std::string& container_id) {
  if (setsid() < 0) return sys_error("create a session");
  return join_keyring(container_id);
}

// Everything that needs the guest's /proc and /dev, and descriptors instead of paths.
Result<Terminal> build_root(const InitLaunch& launch) {
  const oci::Spec& spec = launch.spec;
  TRY(place_rootfs(launch.rootfs_fd));
  Mounter mounter({spec, launch.sources, launch.rootfs_fd});
  TRY(mounter.mount_all());
  TRY(create_devices(launch.rootfs_fd, spec));
  Terminal terminal;
  if (spec.process->terminal) {
    terminal = TRY(open_terminal(launch.rootfs_fd, *spec.process, spec.process->user.uid));
    TRY(bind_console(launch.rootfs_fd, terminal.slave.get()));
  }
  // Images name working directories that they do not hold; runc makes them too.
  TRY(wrap(make_directory_in_root(launch.rootfs_fd, spec.process->cwd), "cwd"));
  TRY(mounter.finish());
  TRY(mask_paths(launch.rootfs_fd, spec.linux.masked_paths));
  TRY(make_paths_readonly(launch.rootfs_fd, spec.linux.readonly_paths));
  if (spec.root && spec.root->readonly)
    TRY(set_mount_attributes(launch.rootfs_fd, MOUNT_ATTR_RDONLY, 0, false));
  return terminal;
}

std::vector<int> kept_until_exec(const ChildChannel& channel, const Terminal& terminal,
                                 const ProcessFds& stdio) {
  std::vector<int> kept{channel.fd(), terminal.master.get()};
  for (const UniqueFd& fd : stdio.passed) kept.push_back(fd.get());
  return kept;
}

Result<Program> set_up_init(const InitLaunch& launch, const ChildChannel& channel) {
  const oci::Spec& spec = launch.spec;
  const oci::Process& process = *spec.process;
  if (launch.namespaces.user) TRY(become_namespace_root());
  TRY(own_session(launch.id));
  // Not by clone3: a cgroup namespace's root is where its maker is, and that is the agent's cgroup.
  if (launch.namespaces.cgroup && unshare(CLONE_NEWCGROUP) != 0)
    return sys_error("create a cgroup namespace");
  Terminal terminal = TRY(build_root(launch));
  TRY(set_names(spec));
  TRY(apply_sysctls(spec));
  TRY(place_stdio(launch.stdio, terminal.slave.get(), launch.rootfs_fd));
  terminal.slave.reset();
  if (process.terminal) TRY(take_terminal(STDIN_FILENO));
  if (!launch.namespaces.user) TRY(apply_limits(process));
  TRY(enter_root(launch.rootfs_fd));
  TRY(set_root_propagation(launch.rootfs_fd, spec.linux.rootfs_propagation));
  TRY(set_personality(spec.linux.personality));
  // From here on paths of the config count, and /proc/self/fd leads nowhere (CVE-2024-21626).
  close_descriptors_except(kept_until_exec(channel, terminal, launch.stdio));
  TRY(place_passed(launch.stdio.passed, terminal.master));
  Program program = TRY(prepare_program(process, launch.seccomp));
  TRY(channel.say(ChildSays::kReady, terminal.master.get()));
  return program;
}

// The container's processes see this one from its first moment. Hence: what the guest has to give
// is done before the container's file system is entered, at once.
Result<Program> set_up_exec(const ExecLaunch& launch, const ChildChannel& channel) {
  const oci::Process& process = launch.process;
  Terminal terminal;
  if (process.terminal) {
    const uid_t owner = map_id(launch.linux.uid_mappings, process.user.uid);
    terminal = TRY(open_terminal(launch.rootfs_fd, process, owner));
  }
  TRY(place_stdio(launch.stdio, terminal.slave.get(), launch.rootfs_fd));
  terminal.slave.reset();
  TRY(apply_limits(process));
  TRY(apply_exec_affinity(process));
  TRY(join_namespaces(launch.init_pidfd, launch.namespaces));
  if (launch.namespaces.user) TRY(become_namespace_root());
  TRY(own_session(launch.id));
  if (process.terminal) TRY(take_terminal(STDIN_FILENO));
  TRY(set_personality(launch.linux.personality));
  // From here on paths of the config count, and /proc/self/fd leads nowhere (CVE-2024-21626).
  close_descriptors_except(kept_until_exec(channel, terminal, launch.stdio));
  TRY(place_passed(launch.stdio.passed, terminal.master));
  Program program = TRY(prepare_program(process, launch.seccomp));
  TRY(channel.say(ChildSays::kReady, terminal.master.get()));
  return program;
}

}  // namespace

Error launch_init(const InitLaunch& launch, const ChildChannel& channel) {
  auto program = set_up_init(launch, channel);
  if (!program) return std::move(program.error());
  if (auto waited = channel.wait_for_agent(); !waited) return std::move(waited.error());
  if (auto ran = run_start_hooks(launch.spec, launch.id); !ran) return std::move(ran.error());
  if (auto said = channel.say(ChildSays::kExecuting); !said) return std::move(said.error());
  return run_program(*program, *launch.spec.process, launch.seccomp, launch.stdio.passed.size());
}

Error launch_exec(const ExecLaunch& launch, const ChildChannel& channel) {
  auto program = set_up_exec(launch, channel);
  if (!program) return std::move(program.error());
  if (auto said = channel.say(ChildSays::kExecuting); !said) return std::move(said.error());
  return run_program(*program, launch.process, launch.seccomp, launch.stdio.passed.size());
}

}  // namespace kiln::agent
