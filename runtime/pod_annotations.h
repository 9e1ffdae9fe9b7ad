// SPDX-License-Identifier: Apache-2.0
// What a pod's manager says of a container by its annotations: containerd's CRI plugin
// (io.kubernetes.cri.…) and CRI-O (io.kubernetes.cri-o.…).
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"
#include "oci/spec.h"

namespace kiln::runtime {

enum class PodRole {
  kNone,       // no part of a pod, or nobody says so
  kSandbox,    // what holds the pod's namespaces: its image's program does nothing
  kContainer,  // one of those that do the work
};
PodRole pod_role(const oci::Spec& spec);

// One of the pod's that do the work, by containerd's word.
bool is_containerds_container(const oci::Spec& spec);

// The pod's id, which is its sandbox's; empty: nobody says it.
std::string pod_id(const oci::Spec& spec);

// What all containers of the pod may use together, as the kubelet adds it up: containerd annotates
// a sandbox with it. 0: nothing is said.
struct PodLimits {
  int64_t memory_bytes = 0;
  int64_t cpu_quota = 0;    // µs of a period
  uint64_t cpu_period = 0;  // µs
  uint64_t cpu_shares = 0;  // relative to other pods
};
// A value that is no number says nothing, as with the pod's manager, which wrote it.
PodLimits pod_limits(const oci::Spec& spec);

// The config of a sandbox weighs its CPU time as that of a program that only waits. The machine's
// is the pod's: what the pod's manager says of all its containers, or nothing.
void weigh_pod(oci::Spec& spec);

// What a sandbox's config may not ask for.
Result<void> check_pod_sandbox(const oci::Spec& spec, bool joins);

}  // namespace kiln::runtime
