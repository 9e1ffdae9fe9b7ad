// SPDX-License-Identifier: Apache-2.0
#include "runtime/spec_check.h"

#include <algorithm>
#include <bitset>
#include <charconv>

#include "base/format.h"
#include "runtime/pod_annotations.h"

namespace kiln::runtime {
namespace {

constexpr uint64_t kMinMemoryMib = 64;
constexpr unsigned kMaxVcpus = 64;
constexpr size_t kMostCpus = 8192;            // CONFIG_NR_CPUS of any x86-64 kernel
constexpr uint64_t kDefaultPeriod = 100'000;  // µs; the kernel's own

tl::unexpected<Error> refuse(const std::string& pointer, const std::string& why) {
  return make_error(ErrorKind::kUnimplemented, fmt::format("config.json: {}: {}", pointer, why));
}

bool may_join(const std::string& type) { return type == "ipc" || type == "pid" || type == "uts"; }

Result<void> check_namespaces(const oci::Linux& config, bool joins) {
  bool has_mount = false;
  for (size_t i = 0; i < config.namespaces.size(); ++i) {
    const oci::Namespace& entry = config.namespaces[i];
    has_mount |= entry.type == "mount";
    // The monitor looks at the network's path.
    if (entry.path.empty() || entry.type == "network" || (joins && may_join(entry.type))) continue;
    return refuse(fmt::format("/linux/namespaces/{}/path", i),
                  fmt::format("a container in a VM cannot join the {} namespace `{}` of the host",
                              entry.type, entry.path));
  }
  if (!has_mount)
    return refuse("/linux/namespaces",
                  "has no mount namespace, and a container in a VM cannot use the host's mounts");
  return {};
}

// What cgroup v2, which guests have, lacks and a container can do without; the agent refuses the
// rest.
void warn_of_memory(const oci::MemoryResources& memory, std::vector<std::string>& warnings) {
  const std::string prefix = "/linux/resources/memory/";
  // 0 is an absent value: Docker writes every member.
  if (memory.kernel.value_or(0) != 0 || memory.kernel_tcp.value_or(0) != 0)
    warnings.push_back(prefix + "kernel: cgroup v2 has no limit of its own for it, ignoring");
  if (memory.swappiness)
    warnings.push_back(prefix + "swappiness: the guest has no swap space, ignoring");
  if (!memory.use_hierarchy.value_or(true))
    warnings.push_back(prefix + "useHierarchy: cgroup v2 is always hierarchical, ignoring");
}

Result<void> check_linux(const oci::Linux& config, std::vector<std::string>& warnings, bool joins) {
  TRY(check_namespaces(config, joins));
  if (config.intel_rdt)
    return refuse("/linux/intelRdt", "a VM's CPU caches are not divided by its container's config");
  if (config.seccomp && !config.seccomp->listener_path.empty())
    return refuse("/linux/seccomp/listenerPath",
                  "a seccomp notification descriptor cannot leave the VM");
  if (!config.mount_label.empty())
    warnings.emplace_back("/linux/mountLabel: the guest has no SELinux, ignoring");
  if (config.resources && config.resources->memory)
    warn_of_memory(*config.resources->memory, warnings);
  if (config.resources && config.resources->network)
    warnings.emplace_back("/linux/resources/network: cgroup v2 has no such limits, ignoring");
  if (config.resources && !config.resources->rdma.empty())
    warnings.emplace_back("/linux/resources/rdma: the guest has no RDMA devices, ignoring");
  return {};
}

Result<void> check_mounts(const oci::Spec& spec) {
  for (size_t i = 0; i < spec.mounts.size(); ++i) {
    const oci::Mount& mount = spec.mounts[i];
    const bool bind = mount.type == "bind" ||
                      std::any_of(mount.options.begin(), mount.options.end(),
                                  [](const auto& o) { return o == "bind" || o == "rbind"; });
    if (bind && mount.source.empty())
      return invalid_argument(
          fmt::format("config.json: /mounts/{}/source: a bind mount needs one", i));
  }
  return {};
}

// Of a list such as `0-3,7`, which the parser has checked for its form.
uint64_t count_cpus(const std::string& list) {
  std::bitset<kMostCpus> named;
  for (size_t begin = 0; begin < list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    uint64_t first = 0;
    const char* at = list.data() + begin;
    const auto [rest, failed] = std::from_chars(at, list.data() + end, first);
    uint64_t last = first;
    if (failed == std::errc() && rest != list.data() + end)
      std::from_chars(rest + 1, list.data() + end, last);
    if (failed == std::errc()) {
      for (uint64_t cpu = first; cpu <= last && cpu < kMostCpus; ++cpu) named.set(cpu);
    }
    begin = end + 1;
  }
  return named.count();
}

}  // namespace

Result<void> check_process(const oci::Process& process, const std::string& pointer,
                           std::vector<std::string>& warnings) {
  if (!process.apparmor_profile.empty())
    warnings.push_back(
        fmt::format("{}/apparmorProfile: the guest has no AppArmor, ignoring", pointer));
  if (!process.selinux_label.empty())
    warnings.push_back(fmt::format("{}/selinuxLabel: the guest has no SELinux, ignoring", pointer));
  return {};
}

Result<void> check_spec(const oci::Spec& spec, std::vector<std::string>& warnings, bool joins) {
  if (!spec.process)
    return invalid_argument("config.json: /process: must be there: a VM has nothing else to run");
  TRY(check_process(*spec.process, "/process", warnings));
  TRY(check_mounts(spec));
  if (pod_role(spec) == PodRole::kSandbox) TRY(check_pod_sandbox(spec, joins));
  return check_linux(spec.linux, warnings, joins);
}

unsigned usable_cpus(const oci::CpuResources& cpu) {
  uint64_t most = cpu.cpus.empty() ? kMostCpus : count_cpus(cpu.cpus);
  if (cpu.quota.value_or(-1) > 0) {
    const auto quota = static_cast<uint64_t>(*cpu.quota);
    // 0 is an absent value: Docker writes every member.
    uint64_t period = cpu.period.value_or(0);
    if (period == 0) period = kDefaultPeriod;
    most = std::min(most, (quota - 1) / period + 1);
  } else if (cpu.cpus.empty()) {
    return 0;
  }
  return static_cast<unsigned>(std::max<uint64_t>(most, 1));
}

Result<void> check_network(const oci::Spec& spec, NetworkMode mode) {
  if (mode != NetworkMode::kNamespace && !spec.linux.net_devices.empty())
    return refuse("/linux/netDevices",
                  "the network mode passt leaves no namespace to move them to");
  if (mode != NetworkMode::kNamespace || oci::find_namespace(spec.linux, "network") != nullptr)
    return {};
  return refuse("/linux/namespaces",
                "has no network namespace, and a container in a VM cannot use the host's network; "
                "the annotation `io.kiln.network: passt` gives it the host's connectivity");
}

VmSize size_vm(const oci::Spec& spec, const VmSizeDefaults& defaults) {
  VmSize size{std::max(defaults.vcpus, 1U), std::max(defaults.memory_mib, kMinMemoryMib)};
  const unsigned most = std::clamp(defaults.host_cpus, 1U, kMaxVcpus);
  const auto resources = spec.linux.resources.value_or(oci::Resources());
  const bool sandbox = pod_role(spec) == PodRole::kSandbox;
  const PodLimits pod = sandbox ? pod_limits(spec) : PodLimits();
  int64_t limit = resources.memory ? resources.memory->limit.value_or(-1) : -1;
  if (limit <= 0) limit = pod.memory_bytes;
  if (limit > 0)
    size.memory_mib = std::max(
        ((static_cast<uint64_t>(limit) + (1 << 20) - 1) >> 20) + defaults.memory_overhead_mib,
        kMinMemoryMib);
  unsigned usable = resources.cpu ? usable_cpus(*resources.cpu) : 0;
  if (usable == 0 && pod.cpu_quota > 0)
    usable = usable_cpus({.quota = pod.cpu_quota, .period = pod.cpu_period});
  if (usable > 0) {
    size.vcpus = usable;
    size.vcpus_from_limits = true;
  }
  size.vcpus = std::min(size.vcpus, most);
  return size;
}

}  // namespace kiln::runtime
