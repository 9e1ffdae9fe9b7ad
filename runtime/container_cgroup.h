// SPDX-License-Identifier: Apache-2.0
// A container's cgroup on the host, over its life.
#pragma once

#include <sys/types.h>

#include "base/error.h"
#include "runtime/cgroup/host_cgroup.h"
#include "runtime/container_dir.h"
#include "runtime/plan.h"

namespace kiln::runtime {

struct CgroupOptions {
  bool systemd = false;   // --systemd-cgroup
  bool rootless = false;  // without the right to make cgroups, a container without any will do
};

HostMachine host_machine(const vmm::VmConfig& vm);

// Before anything is made: where the container's cgroup is to be, and whether it is free. Also sets
// plan.origin.
Result<HostCgroup> choose_cgroup(MonitorPlan& plan, const CgroupOptions& options);

// Whether it has none of its own, and its monitor is in its sandbox's. Those of containerd's pods
// have none: a kubelet takes a container's figures from its cgroup on the node where there is one,
// and there is the monitor alone in it; where there is none, it asks containerd, and so the guest.
bool is_in_sandbox_cgroup(const ContainerRecord& record);

// Such a container's monitor, which has no children yet, to that of its sandbox.
Result<void> place_monitor_in(HostCgroup sandbox, const CgroupOptions& options, pid_t monitor);

// Makes record.cgroup with its limits, but for those that would only slow the boot down, and moves
// the monitor there, which has no children yet. On failure the caller removes what is there.
Result<void> place_monitor(ContainerRecord& record, const MonitorPlan& plan,
                           const CgroupOptions& options, pid_t monitor);

// All limits: once the container is there, and whenever they change.
Result<void> limit_container_cgroup(const ContainerRecord& record);

// CPU quotas, for a container that is to end: its monitor has work left to do.
Result<void> lift_container_throttles(const ContainerRecord& record);

// Kills what is still in it.
Result<void> remove_container_cgroup(const HostCgroup& cgroup);

}  // namespace kiln::runtime
