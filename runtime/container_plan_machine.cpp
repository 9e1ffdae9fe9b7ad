// SPDX-License-Identifier: Apache-2.0
// The machine for a container: the configuration file, then the container's annotations, then the
// command's own flags.
#include <unistd.h>

#include <algorithm>

#include "base/format.h"
#include "base/log.h"
#include "runtime/config/config.h"
#include "runtime/config/locate.h"
#include "runtime/container_plan.h"
#include "runtime/guest/image.h"
#include "runtime/pod_annotations.h"
#include "runtime/spec_check.h"
#include "vmm/api/vm.h"

namespace kiln::runtime {
namespace {

Result<vmm::Backend> backend_named(const std::string& name) {
  if (name == "auto") return vmm::Backend::kAuto;
  if (name == "kvm") return vmm::Backend::kKvm;
  if (name == "qemu") return vmm::Backend::kQemu;
  return invalid_argument(fmt::format("--vmm: must be auto, kvm or qemu, is `{}`", name));
}

template <typename Number>
Result<void> check_maximum(const char* what, Number value, const std::optional<Number>& most,
                           const char* key) {
  if (!most || value <= *most) return {};
  return make_error(ErrorKind::kOutOfRange,
                    fmt::format("the container needs a VM with {} {}, and the configuration allows "
                                "{} ({})",
                                value, what, *most, key));
}

Result<void> choose_size(const Config& config, const MachineWishes& wishes, MonitorPlan& plan) {
  const auto host_cpus = static_cast<unsigned>(std::max(sysconf(_SC_NPROCESSORS_ONLN), 1L));
  const VmSize size = size_vm(plan.spec, {config.machine.vcpus, config.machine.memory_mib,
                                          config.machine.memory_overhead_mib, host_cpus});
  vmm::MachineConfig& machine = plan.vm.machine;
  const auto wanted = wishes.vcpus ? wishes.vcpus : config.machine.wanted_vcpus;
  machine.vcpu_count = wanted.value_or(size.vcpus);
  machine.mem_size_mib =
      wishes.memory_mib.value_or(config.machine.wanted_memory_mib.value_or(size.memory_mib));
  // A CPU limit is a bound, and still holds; a memory limit is room that was promised.
  const unsigned most = config.machine.max_vcpus.value_or(kMaxVcpus);
  if (!wanted && size.vcpus_from_limits && size.vcpus > most) {
    log_warning("the container may use {} CPUs, its VM has {} (machine.max_vcpus)", size.vcpus,
                most);
    machine.vcpu_count = most;
  }
  TRY(check_maximum("vCPUs", machine.vcpu_count, config.machine.max_vcpus, "machine.max_vcpus"));
  TRY(check_maximum("MiB of memory", machine.mem_size_mib, config.machine.max_memory_mib,
                    "machine.max_memory"));
  machine.nested = wishes.nested || config.machine.nested;
  if (machine.vcpu_count < 1 || machine.vcpu_count > kMaxVcpus)
    return invalid_argument(
        fmt::format("a VM has from 1 to {} vCPUs, not {}", kMaxVcpus, machine.vcpu_count));
  if (machine.mem_size_mib < kMinGuestMemoryMib || machine.mem_size_mib > kMaxGuestMemoryMib)
    return invalid_argument(fmt::format("a VM has from {} MiB to {} MiB of memory, not {} MiB",
                                        kMinGuestMemoryMib, kMaxGuestMemoryMib,
                                        machine.mem_size_mib));
  return {};
}

Result<void> choose_machine(const Config& config, const MachineWishes& wishes, MonitorPlan& plan) {
  vmm::Backend wanted = config.backend;
  if (wishes.backend) wanted = TRY(backend_named(*wishes.backend));
  const vmm::BackendChoice choice = TRY(vmm::choose_backend(wanted, config.qemu.accel));
  // Somebody who asked for it by name knows.
  if (wanted == vmm::Backend::kAuto && config.qemu.accel.empty() && choice.qemu_accel == "tcg")
    log_warning("backend {}", choice.reason);
  plan.vm.backend = choice.backend;
  plan.vm.qemu_accel = choice.qemu_accel;
  plan.vm.qemu_binary = config.qemu.binary;
  if (!config.qemu.binary.empty() && access(config.qemu.binary.c_str(), X_OK) != 0)
    return sys_error(
        fmt::format("find `qemu.binary` of the configuration, `{}`", config.qemu.binary));
  return {};
}

// Interfaces, and the disks of containers that join, may come after the machine has been started.
// kiln's own machine gets a device for each then, in a slot that costs a few exits while the guest
// boots; QEMU's must have interfaces from the start, and gets no disks.
void choose_spares(const Config& config, MonitorPlan& plan) {
  const unsigned interfaces = config.network.spare_interfaces;
  if (plan.vm.backend != vmm::Backend::kKvm) {
    plan.spare_interfaces = interfaces;
    return;
  }
  const bool pod = pod_role(plan.spec) == PodRole::kSandbox;
  plan.spare_drives = config.machine.spare_drives.value_or(pod ? kPodSpareDrives : 0);
  plan.vm.machine.spare_slots = interfaces + plan.spare_drives;
}

Result<void> choose_network(const Config& config, const MachineWishes& wishes, MonitorPlan& plan) {
  const NetworkMode configured =
      config.network.passt ? NetworkMode::kPasst : NetworkMode::kNamespace;
  plan.network = wishes.network.value_or(configured);
  TRY(check_network(plan.spec, plan.network));
  if (plan.network != NetworkMode::kPasst) return {};
  plan.pasta = config.network.pasta;
  if (access(plan.pasta.c_str(), X_OK) != 0)
    return sys_error(fmt::format(
        "find `{}`, which the network mode passt needs (Debian's package passt)", plan.pasta));
  return {};
}

}  // namespace

Result<void> plan_machine(const PlanOptions& options, const MachineWishes& wishes,
                          MonitorPlan& plan) {
  Config config = TRY(load_config(options.config_path, options.config_given));
  TRY(apply_annotations(config, plan.spec.annotations));
  if (plan.spec.annotations.contains(kForwardAnnotation))
    plan.forwards = TRY(wrap(parse_forwards(config.vsock_forward),
                             fmt::format("annotation `{}`", kForwardAnnotation)));
  TRY(choose_network(config, wishes, plan));
  TRY(choose_size(config, wishes, plan));
  plan.vmm_binary = TRY(find_vmm_binary(config));
  GuestImage image = TRY(find_guest_image(config));
  TRY(choose_machine(config, wishes, plan));
  plan.vm.boot_source = {std::move(image.kernel_path), std::move(image.initramfs_path),
                         config.guest.kernel_args};
  plan.boot_timeout_ms = config.guest.boot_timeout_ms;
  choose_spares(config, plan);
  plan.overlay_size_bytes = config.box.overlay_size_mib << 20;
  return {};
}

}  // namespace kiln::runtime
