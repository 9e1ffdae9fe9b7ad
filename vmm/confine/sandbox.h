// SPDX-License-Identifier: Apache-2.0
// What a process of kiln-vmm gives up before it serves a guest. Together with a system call filter
// (syscall_filter.h) it is all that is left to whoever takes the process over: the descriptors that
// it was handed.
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "base/error.h"
#include "vmm/confine/empty_root.h"

namespace kiln::vmm {

struct Confinement {
  struct Ids {
    uid_t uid;
    gid_t gid;
  };
  // Whom it becomes, without supplementary groups; unset: it stays who it is.
  std::optional<Ids> ids;
  // One that maps its own ids and nothing else. Where it lacks CAP_SYS_ADMIN it needs one anyway,
  // for all the rest.
  bool own_user_namespace = true;
  // Otherwise an empty one.
  bool keep_network = false;
  uint64_t capabilities = 0;  // 1 << CAP_…; kept of those that it has
  std::vector<KeptDirectory> kept;
  // 0: as many as the process may have already. What is open beyond it stays open.
  rlim_t max_descriptors = 0;
  // The parent has this socket's other end, and nobody else. -1: it is not checked that it lives.
  int owner_fd = -1;
};

// For `kiln-vmm run`: as root it becomes kConfinedUid and kConfinedGid
// (vmm/api/confined_process.h).
Confinement vmm_confinement();
// For `kiln-vmm fs`, which acts for the owners of the files that it serves.
Confinement fs_confinement();

// Once, with one thread, after everything that has a path is open. The process then has
// - mount, ipc, uts, cgroup and (unless kept) network namespaces of its own. The pid namespace is
//   its parent's business (SpawnOptions::namespaces): a process cannot move itself into one;
// - an empty, read-only root, but for `kept`;
// - no capabilities but `capabilities`, no way to gain any, no_new_privs;
// - no core dumps, is not dumpable, and dies with its parent as before.
// An error leaves the process half confined: it is to end. kFailedPrecondition where the host does
// not let an unprivileged user have a user namespace.
//
// RLIMIT_NPROC is left alone: it counts a user's tasks in all VMs of the host, and the workers of
// io_uring among them. The filters forbid new processes; the pids cgroup counts them. RLIMIT_FSIZE
// neither: a disk image is as large as it is.
Result<void> enter(const Confinement& wanted);

}  // namespace kiln::vmm
