// SPDX-License-Identifier: Apache-2.0
// What a valid config.json may not ask of a microVM.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "oci/spec.h"
#include "runtime/plan.h"

namespace kiln::runtime {

// An error names the JSON pointer and the reason. `warnings` gets a line for each thing that is
// accepted and has no effect. docs/limitations.md lists both.
// `joins`: it goes into a running sandbox, and may have namespaces of others there (join.h).
Result<void> check_spec(const oci::Spec& spec, std::vector<std::string>& warnings,
                        bool joins = false);
Result<void> check_process(const oci::Process& process, const std::string& pointer,
                           std::vector<std::string>& warnings);

// Whether the config's network is one that this mode can give it.
Result<void> check_network(const oci::Spec& spec, NetworkMode mode);

struct VmSize {
  unsigned vcpus = 1;
  uint64_t memory_mib = 0;
  bool vcpus_from_limits = false;
};
struct VmSizeDefaults {
  unsigned vcpus = 1;
  uint64_t memory_mib = 0;           // for a container without a memory limit
  uint64_t memory_overhead_mib = 0;  // on top of a limit: the guest's kernel and agent
  unsigned host_cpus = 1;
};
// As many CPUs as quota and cpuset let a container use; 0: all.
unsigned usable_cpus(const oci::CpuResources& cpu);
// vCPUs from CPU quota and cpuset, memory from the limit; for a pod's sandbox without limits of its
// own, from those that the pod's manager says all its containers have (pod_annotations.h).
VmSize size_vm(const oci::Spec& spec, const VmSizeDefaults& defaults);

}  // namespace kiln::runtime
