// SPDX-License-Identifier: Apache-2.0
// The container's cgroup on the host: made before the machine's first process, removed after its
// last.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "runtime/cgroup/cgroup_path.h"
#include "runtime/cgroup/host_limits.h"

namespace kiln::runtime {

// As runc: no processes in it, and not frozen. One that does not exist is fine.
Result<void> check_cgroup_is_free(const HostCgroup& cgroup);

// Makes the directories with all above them, which stay when the container goes. `tolerant` (a
// rootless runtime without a cgroupsPath): directories that we may not make are left out.
Result<void> make_cgroup(HostCgroup& cgroup, bool tolerant);

// Errors name the file. A controller that the cgroup has no directory for is an error.
Result<void> write_limits(const HostCgroup& cgroup, const std::vector<HostLimit>& limits);

// Moves a process of ours there; its children are born there. `tolerant` as above.
Result<void> enter_cgroup(HostCgroup& cgroup, pid_t pid, bool tolerant);

// Ours back to where `origin` says, or else to the top: somebody who removes his own cgroup.
void leave_cgroup(const HostCgroup& cgroup, const HostCgroup& origin);

// Kills what is in it and below, waits for its end, and removes it. No error if it does not exist.
Result<void> remove_cgroup(const HostCgroup& cgroup);

}  // namespace kiln::runtime
