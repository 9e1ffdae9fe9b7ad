// SPDX-License-Identifier: Apache-2.0
#include "runtime/spec_check.h"

#include <algorithm>

#include "base/format.h"

namespace kiln::runtime {
namespace {

constexpr uint64_t kMinMemoryMib = 64;
constexpr unsigned kMaxVcpus = 64;
constexpr uint64_t kDefaultPeriod = 100'000;  // µs; the kernel's own

tl::unexpected<Error> refuse(const std::string& pointer, const std::string& why) {
  return make_error(ErrorKind::kUnimplemented, fmt::format("config.json: {}: {}", pointer, why));
}

Result<void> check_namespaces(const oci::Linux& config) {
  bool has_mount = false;
  for (size_t i = 0; i < config.namespaces.size(); ++i) {
    const oci::Namespace& entry = config.namespaces[i];
    has_mount |= entry.type == "mount";
    // The monitor looks at the network's path.
    if (entry.path.empty() || entry.type == "network") continue;
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

Result<void> check_linux(const oci::Linux& config, std::vector<std::string>& warnings) {
  TRY(check_namespaces(config));
  if (config.intel_rdt)
    return refuse("/linux/intelRdt", "a VM's CPU caches are not divided by its container's config");
  if (!config.net_devices.empty())
    return refuse("/linux/netDevices", "moving host interfaces into a VM is not supported");
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

Result<void> check_spec(const oci::Spec& spec, std::vector<std::string>& warnings) {
  if (!spec.process)
    return invalid_argument("config.json: /process: must be there: a VM has nothing else to run");
  TRY(check_process(*spec.process, "/process", warnings));
  TRY(check_mounts(spec));
  return check_linux(spec.linux, warnings);
}

Result<void> check_network(const oci::Spec& spec, NetworkMode mode) {
  if (mode != NetworkMode::kNamespace || oci::find_namespace(spec.linux, "network") != nullptr)
    return {};
  return refuse("/linux/namespaces",
                "has no network namespace, and a container in a VM cannot use the host's network; "
                "the annotation `io.kiln.network: passt` gives it the host's connectivity");
}

VmSize size_vm(const oci::Spec& spec, const VmSizeDefaults& defaults) {
  VmSize size{std::max(defaults.vcpus, 1U), std::max(defaults.memory_mib, kMinMemoryMib)};
  const unsigned most = std::clamp(defaults.host_cpus, 1U, kMaxVcpus);
  const auto& resources = spec.linux.resources;
  if (resources && resources->memory && resources->memory->limit.value_or(-1) > 0) {
    const auto limit = static_cast<uint64_t>(*resources->memory->limit);
    size.memory_mib =
        std::max(((limit + (1 << 20) - 1) >> 20) + defaults.memory_overhead_mib, kMinMemoryMib);
  }
  if (resources && resources->cpu && resources->cpu->quota.value_or(-1) > 0) {
    const uint64_t period = resources->cpu->period.value_or(kDefaultPeriod);
    const auto quota = static_cast<uint64_t>(*resources->cpu->quota);
    if (period > 0)
      size.vcpus =
          static_cast<unsigned>(std::clamp<uint64_t>((quota + period - 1) / period, 1, most));
  }
  size.vcpus = std::min(size.vcpus, most);
  return size;
}

}  // namespace kiln::runtime
