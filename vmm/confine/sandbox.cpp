// SPDX-License-Identifier: Apache-2.0
#include "vmm/confine/sandbox.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>

#include "base/file.h"
#include "base/format.h"
#include "vmm/api/confined_process.h"
#include "vmm/confine/capabilities.h"

namespace kiln::vmm {
namespace {

// A VM's sockets and files: the vsock's connections (1024, and as many that linger or have not said
// yet what they want) and what belongs to the devices.
constexpr rlim_t kVmmDescriptors = 4096;

// What the server needs to act for its guest's users: own the files that it makes for them, and
// reach and change files whoever owns them. Not CAP_SYS_ADMIN, which would be the host: attributes
// of the `trusted.` and (but for capabilities) `security.` kinds are for the host to set.
constexpr uint64_t kFsCapabilities = capability_bit(CAP_CHOWN) | capability_bit(CAP_DAC_OVERRIDE) |
                                     capability_bit(CAP_FOWNER) | capability_bit(CAP_FSETID) |
                                     capability_bit(CAP_SETGID) | capability_bit(CAP_SETUID) |
                                     capability_bit(CAP_MKNOD) | capability_bit(CAP_SETFCAP);

// Even root cannot have one where the host has switched them off altogether.
bool user_namespaces_are_off() {
  const auto limit = read_file("/proc/sys/user/max_user_namespaces");
  return limit && limit->starts_with("0");
}

Result<void> write_at(int directory, const char* name, std::string_view text) {
  const UniqueFd fd(openat(directory, name, O_WRONLY | O_CLOEXEC));
  if (!fd) return sys_error(format("open `/proc/self/{}`", name));
  return wrap(write_fully(fd.get(), text), format("`/proc/self/{}`", name));
}

// `proc_self`: /proc/self, opened while there was a /proc.
Result<void> enter_user_namespace(int proc_self) {
  const uid_t uid = geteuid();
  const gid_t gid = getegid();
  if (unshare(CLONE_NEWUSER) != 0) {
    const int failed = errno;
    return make_error(
        ErrorKind::kFailedPrecondition,
        format("create a user namespace: {} (see the sysctls user.max_user_namespaces, "
               "kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns)",
               errno_text(failed)));
  }
  // A process that has changed its uid does not own its files in /proc unless it is dumpable, and
  // the maps are for their owner to write. enter() ends with the opposite.
  if (prctl(PR_SET_DUMPABLE, 1) != 0) return sys_error("become dumpable");
  // user_namespaces(7): one's own ids are all that one may map without privilege outside.
  TRY(write_at(proc_self, "setgroups", "deny"));
  TRY(write_at(proc_self, "uid_map", format("{0} {0} 1", uid)));
  return write_at(proc_self, "gid_map", format("{0} {0} 1", gid));
}

Result<void> enter_namespaces(bool keep_network) {
  int flags = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
  if (!keep_network) flags |= CLONE_NEWNET;
  return unshare(flags) == 0 ? Result<void>() : sys_error("create namespaces");
}

// Capabilities stay for what is still to be done.
Result<void> change_ids(const Confinement::Ids& ids) {
  TRY(keep_capabilities_across_setuid());
  if (setgroups(0, nullptr) != 0) return sys_error("drop the supplementary groups");
  if (setresgid(ids.gid, ids.gid, ids.gid) != 0)
    return sys_error(format("change the gid to {}", ids.gid));
  if (setresuid(ids.uid, ids.uid, ids.uid) != 0)
    return sys_error(format("change the uid to {}", ids.uid));
  return {};
}

Result<void> limit_resources(rlim_t max_descriptors) {
  struct Limit {
    __rlimit_resource resource;
    rlim_t value;
  };
  const Limit limits[] = {
      {RLIMIT_CORE, 0}, {RLIMIT_MSGQUEUE, 0}, {RLIMIT_RTPRIO, 0}, {RLIMIT_NOFILE, max_descriptors}};
  for (const auto& [resource, value] : limits) {
    rlimit limit{};
    if (getrlimit(resource, &limit) != 0) return sys_error("read a resource limit");
    if (resource == RLIMIT_NOFILE && value == 0) continue;
    limit.rlim_max = std::min(limit.rlim_max, value);
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(resource, &limit) != 0) return sys_error("set a resource limit");
  }
  return {};
}

// The kernel has forgotten it with the change of the uid.
Result<void> die_with_parent(int signal_number, int owner_fd) {
  if (signal_number != 0 && prctl(PR_SET_PDEATHSIG, signal_number) != 0)
    return sys_error("set the parent-death signal");
  // It may have died in between; as process 1 of a pid namespace one has no parent to ask for.
  pollfd owner{owner_fd, POLLRDHUP, 0};
  if (owner_fd >= 0 && poll(&owner, 1, 0) > 0 && (owner.revents & (POLLHUP | POLLRDHUP)) != 0)
    return make_error(ErrorKind::kCancelled, "the owner has died");
  return {};
}

Result<void> try_enter(const Confinement& wanted) {
  int death_signal = 0;
  if (prctl(PR_GET_PDEATHSIG, &death_signal) != 0) return sys_error("read the parent-death signal");
  const UniqueFd proc_self = TRY(open_file("/proc/self", O_PATH | O_DIRECTORY));
  // Root's namespaces belong to the user namespace that it comes from: the VMM's own, entered at
  // the end, has no power over them. Others get the power to make them from their own.
  const bool privileged = has_capability(CAP_SYS_ADMIN);
  if (!privileged) TRY(enter_user_namespace(proc_self.get()));
  TRY(enter_namespaces(wanted.keep_network));
  TRY(enter_empty_root(wanted.kept));
  if (privileged && wanted.ids) TRY(change_ids(*wanted.ids));
  // As root to the end of it (CAP_SYS_ADMIN), so that no ban on *unprivileged* ones is in the way.
  if (privileged && wanted.own_user_namespace) TRY(enter_user_namespace(proc_self.get()));
  TRY(limit_resources(wanted.max_descriptors));
  TRY(drop_capabilities(wanted.capabilities));
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return sys_error("set no_new_privs");
  if (prctl(PR_SET_DUMPABLE, 0) != 0) return sys_error("become undumpable");
  return die_with_parent(death_signal, wanted.owner_fd);
}

}  // namespace

Confinement vmm_confinement() {
  Confinement wanted;
  if (can_change_ids()) wanted.ids = Confinement::Ids{kConfinedUid, kConfinedGid};
  // Then a uid of its own without capabilities has to do, in namespaces that root has made.
  wanted.own_user_namespace = !user_namespaces_are_off();
  wanted.max_descriptors = kVmmDescriptors;
  return wanted;
}

Confinement fs_confinement() {
  Confinement wanted;
  // A user namespace would take away what only the host's own root may do for a guest: device nodes
  // (CAP_MKNOD counts in the initial one alone), and files of owners that it does not map.
  wanted.own_user_namespace = false;
  wanted.capabilities = kFsCapabilities;
  // O_PATH descriptors are opened again, linked and read the attributes of through their names
  // there. It shows this process's descriptors and leads nowhere else.
  wanted.kept.push_back({"/proc/self/fd", "proc/self/fd"});
  return wanted;
}

Result<void> enter(const Confinement& wanted) { return wrap(try_enter(wanted), "confine"); }

}  // namespace kiln::vmm
