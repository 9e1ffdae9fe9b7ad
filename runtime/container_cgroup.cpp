// SPDX-License-Identifier: Apache-2.0
#include "runtime/container_cgroup.h"

#include "base/format.h"
#include "base/log.h"
#include "runtime/cgroup/systemd_scope.h"
#include "runtime/pod_annotations.h"

namespace kiln::runtime {
namespace {

// What rootless containers do without a cgroup: no path was asked for.
bool is_tolerant(const MonitorPlan& plan, const CgroupOptions& options) {
  return options.rootless && plan.spec.linux.cgroups_path.empty();
}

Result<std::vector<HostLimit>> limits_of(const ContainerRecord& record) {
  return host_limits(record.resources, record.machine, record.cgroup.unified);
}

Result<void> set_limits(const ContainerRecord& record, const std::vector<HostLimit>& limits) {
  if (is_in_sandbox_cgroup(record)) return {};  // the pod's are its manager's
  if (!record.cgroup.unit.empty()) {
    SystemdScope systemd = TRY(SystemdScope::connect(record.cgroup.of_user));
    TRY(systemd.set_limits(record.cgroup.unit, limits));
  }
  return write_limits(record.cgroup, limits);
}

}  // namespace

HostMachine host_machine(const vmm::VmConfig& vm) {
  MachineKind kind = MachineKind::kKvm;
  if (vm.backend == vmm::Backend::kQemu)
    kind = vm.qemu_accel == "tcg" ? MachineKind::kQemuTcg : MachineKind::kQemuKvm;
  const uint64_t memory = vm.machine.mem_size_mib;
  return {memory, machine_overhead_mib(kind, vm.machine.vcpu_count, memory)};
}

Result<HostCgroup> choose_cgroup(MonitorPlan& plan, const CgroupOptions& options) {
  std::string path = plan.spec.linux.cgroups_path;
  const Hierarchies hierarchies = TRY(find_hierarchies());
  for (const auto& [controller, hierarchy] : hierarchies.by_controller)
    plan.origin.directories[controller] = hierarchy.own;
  if (plan.join && is_containerds_container(plan.spec)) return HostCgroup{};
  std::string unit;
  if (options.systemd) {
    const ScopeName scope = TRY(parse_scope_name(path, plan.id, options.rootless));
    SystemdScope systemd = TRY(SystemdScope::connect(options.rootless));
    path = TRY(systemd.own_cgroup()) + scope.path;
    unit = scope.unit;
  }
  HostCgroup cgroup = place_cgroup(hierarchies, path, plan.id);
  cgroup.unit = unit;
  cgroup.of_user = options.rootless;
  TRY(check_cgroup_is_free(cgroup));
  return cgroup;
}

bool is_in_sandbox_cgroup(const ContainerRecord& record) {
  return !record.sandbox.empty() && record.cgroup.directories.empty();
}

Result<void> place_monitor_in(HostCgroup sandbox, const CgroupOptions& options, pid_t monitor) {
  return enter_cgroup(sandbox, monitor, options.rootless);
}

Result<void> place_monitor(ContainerRecord& record, const MonitorPlan& plan,
                           const CgroupOptions& options, pid_t monitor) {
  const bool tolerant = is_tolerant(plan, options);
  const auto limits = TRY(limits_of(record));
  if (!record.cgroup.unit.empty()) {
    const ScopeName scope =
        TRY(parse_scope_name(plan.spec.linux.cgroups_path, plan.id, options.rootless));
    SystemdScope systemd = TRY(SystemdScope::connect(options.rootless));
    TRY(systemd.start(scope, monitor, without_throttles(limits)));
  }
  // What systemd has no part in, it leaves to us: it delegates the scope.
  TRY(make_cgroup(record.cgroup, tolerant));
  // Once in full: what this host refuses is known before the machine boots.
  TRY(write_limits(record.cgroup, limits));
  TRY(write_limits(record.cgroup, without_throttles(limits)));
  return enter_cgroup(record.cgroup, monitor, tolerant);
}

Result<void> limit_container_cgroup(const ContainerRecord& record) {
  return set_limits(record, TRY(limits_of(record)));
}

Result<void> lift_container_throttles(const ContainerRecord& record) {
  std::vector<HostLimit> throttles;
  for (HostLimit& limit : TRY(limits_of(record)))
    if (limit.throttles) throttles.push_back(std::move(limit));
  if (throttles.empty()) return {};
  return set_limits(record, without_throttles(throttles));
}

Result<void> remove_container_cgroup(const HostCgroup& cgroup) {
  if (!cgroup.unit.empty()) {
    auto systemd = SystemdScope::connect(cgroup.of_user);
    auto stopped = systemd ? systemd->stop(cgroup.unit)
                           : Result<void>(tl::unexpected(std::move(systemd.error())));
    if (!stopped) log_warning("stop unit {}: {}, ignoring", cgroup.unit, stopped.error().message);
  }
  return remove_cgroup(cgroup);
}

}  // namespace kiln::runtime
