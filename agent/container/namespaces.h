// SPDX-License-Identifier: Apache-2.0
// The namespaces of a container. A network namespace of the config is the guest's own: the host has
// given the VM what the container may reach.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "agent/container/container.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "oci/spec.h"

namespace kiln::agent {

struct NamespacePlan {
  uint64_t clone_flags = 0;  // CLONE_NEW* for clone3(2); a mount namespace always
  uint64_t shared = 0;       // CLONE_NEW* that are another container's
  bool user = false;
  bool cgroup = false;  // unshared by the process itself, once it is in its cgroup
  bool time = false;    // unshared by the process's helper
};

// `shared`: CLONE_NEW* of the types that are another container's. Errors: a namespace given by
// path; the host's are not in the guest.
Result<NamespacePlan> plan_namespaces(const oci::Linux& config, uint64_t shared = 0);

// A time namespace for the caller's next children.
Result<void> unshare_time(const oci::Linux& config);

// Maps of the user namespace of `pid`, a new process that waits.
Result<void> write_id_maps(pid_t pid, const std::vector<oci::IdMapping>& uids,
                           const std::vector<oci::IdMapping>& gids);

// A user namespace with these maps and no process in it, for MOUNT_ATTR_IDMAP.
Result<UniqueFd> make_user_namespace(const std::vector<oci::IdMapping>& uids,
                                     const std::vector<oci::IdMapping>& gids);

// The id outside of the container; the id itself without mappings, -1 (unmapped) if none fits.
uint32_t map_id(const std::vector<oci::IdMapping>& mappings, uint32_t container_id);

// setns(2) to those of other containers, of which `plan.shared` then knows; for the caller's
// children.
Result<void> join_shared(const std::vector<SharedNamespaces>& shared);

// setns(2) to those of the process behind `pidfd`. The first two count for the caller's next
// children only.
Result<void> join_for_children(int pidfd, const NamespacePlan& plan);
Result<void> join_namespaces(int pidfd, const NamespacePlan& plan);

}  // namespace kiln::agent
