// SPDX-License-Identifier: Apache-2.0
// What a process of the container is before it execs, beside namespaces and files: limits,
// scheduling, identity. All functions but the first act on the calling process, the container's
// future one, which must have one thread.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace kiln::oci {
struct Process;
}  // namespace kiln::oci

namespace kiln::agent {

// To be called early, by the agent: fails on what the guest cannot give (a label or a profile of a
// security module), so that the child need not. Returns what is left out, for the log: unknown
// capabilities and ambient ones that cannot be raised, as runc does.
Result<std::vector<std::string>> check_process(const oci::Process& process);

// rlimits, scheduler, ioPriority, oomScoreAdj. Needs the privileges that apply_identity drops, and
// a procfs on /proc that shows the caller.
Result<void> apply_limits(const oci::Process& process);

// execCPUAffinity, for processes that enter a running container. To be called when the process is
// in the container's cgroup.
Result<void> apply_exec_affinity(const oci::Process& process);

// umask, noNewPrivileges, bounding set, groups, gid, uid, capabilities, ambient set: in this
// order. The filter of seccomp_filter.h goes in before it without noNewPrivileges (seccomp(2)
// needs CAP_SYS_ADMIN then), and after it with them.
Result<void> apply_identity(const oci::Process& process);

}  // namespace kiln::agent
