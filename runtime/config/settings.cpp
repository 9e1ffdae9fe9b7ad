// SPDX-License-Identifier: Apache-2.0
#include "runtime/config/settings.h"

#include "base/format.h"
#include "runtime/config/quantity.h"

namespace kiln::runtime {
namespace {

constexpr uint64_t kMaxBootTimeoutSeconds = 3600;
// x86's COMMAND_LINE_SIZE is 2048; the backend needs a part of it.
constexpr size_t kMaxKernelArgsBytes = 1024;

Result<std::string> absolute(const std::string& value) {
  if (value.empty() || value.front() != '/')
    return invalid_argument(fmt::format("must be an absolute path, is `{}`", value));
  return value;
}

Result<uint64_t> memory_of_guest(const std::string& value) {
  const uint64_t mib = TRY(parse_mib(value));
  if (mib < kMinGuestMemoryMib || mib > kMaxGuestMemoryMib)
    return invalid_argument(fmt::format("must be from {}M to {}T, is `{}`", kMinGuestMemoryMib,
                                        kMaxGuestMemoryMib >> 20, value));
  return mib;
}

Result<void> set_backend(Config& config, const std::string& value) {
  if (value == "auto") {
    config.backend = vmm::Backend::kAuto;
  } else if (value == "kvm") {
    config.backend = vmm::Backend::kKvm;
  } else if (value == "qemu") {
    config.backend = vmm::Backend::kQemu;
  } else {
    return invalid_argument(fmt::format("must be auto, kvm or qemu, is `{}`", value));
  }
  return {};
}

Result<void> set_vmm(Config& config, const std::string& value) {
  config.vmm_binary = TRY(absolute(value));
  return {};
}

Result<void> set_guest_directory(Config& config, const std::string& value) {
  config.guest.directory = TRY(absolute(value));
  return {};
}

// From the file's owner; an annotation could switch off what the guest's kernel defends.
Result<void> set_kernel_args(Config& config, const std::string& value) {
  if (value.size() > kMaxKernelArgsBytes)
    return invalid_argument(fmt::format("must be at most {} bytes", kMaxKernelArgsBytes));
  for (const char c : value) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      return invalid_argument("must be one line without control characters");
  }
  config.guest.kernel_args = value;
  return {};
}

Result<void> set_boot_timeout(Config& config, const std::string& value) {
  config.guest.boot_timeout_ms =
      static_cast<int64_t>(TRY(parse_number(value, 1, kMaxBootTimeoutSeconds)) * 1000);
  return {};
}

Result<void> set_vcpus(Config& config, const std::string& value) {
  config.machine.vcpus = static_cast<unsigned>(TRY(parse_number(value, 1, kMaxVcpus)));
  return {};
}

Result<void> want_vcpus(Config& config, const std::string& value) {
  config.machine.wanted_vcpus = static_cast<unsigned>(TRY(parse_number(value, 1, kMaxVcpus)));
  return {};
}

Result<void> set_memory(Config& config, const std::string& value) {
  config.machine.memory_mib = TRY(memory_of_guest(value));
  return {};
}

Result<void> want_memory(Config& config, const std::string& value) {
  config.machine.wanted_memory_mib = TRY(memory_of_guest(value));
  return {};
}

Result<void> set_memory_overhead(Config& config, const std::string& value) {
  const uint64_t mib = TRY(parse_mib(value));
  if (mib > kMaxGuestMemoryMib)
    return invalid_argument(
        fmt::format("must be at most {}T, is `{}`", kMaxGuestMemoryMib >> 20, value));
  config.machine.memory_overhead_mib = mib;
  return {};
}

Result<void> set_max_vcpus(Config& config, const std::string& value) {
  config.machine.max_vcpus = static_cast<unsigned>(TRY(parse_number(value, 1, kMaxVcpus)));
  return {};
}

Result<void> set_max_memory(Config& config, const std::string& value) {
  config.machine.max_memory_mib = TRY(memory_of_guest(value));
  return {};
}

Result<void> set_nested(Config& config, const std::string& value) {
  config.machine.nested = TRY(parse_bool(value));
  return {};
}

Result<void> set_spare_drives(Config& config, const std::string& value) {
  config.machine.spare_drives = static_cast<unsigned>(TRY(parse_number(value, 0, kMaxSpareDrives)));
  return {};
}

Result<void> set_network_mode(Config& config, const std::string& value) {
  if (value != "namespace" && value != "passt")
    return invalid_argument(fmt::format("must be namespace or passt, is `{}`", value));
  config.network.passt = value == "passt";
  return {};
}

Result<void> set_pasta(Config& config, const std::string& value) {
  config.network.pasta = TRY(absolute(value));
  return {};
}

Result<void> set_spare_interfaces(Config& config, const std::string& value) {
  config.network.spare_interfaces =
      static_cast<unsigned>(TRY(parse_number(value, 0, kMaxSpareInterfaces)));
  return {};
}

Result<void> set_qemu_binary(Config& config, const std::string& value) {
  config.qemu.binary = TRY(absolute(value));
  return {};
}

Result<void> set_qemu_accel(Config& config, const std::string& value) {
  if (value != "auto" && value != "kvm" && value != "tcg")
    return invalid_argument(fmt::format("must be auto, kvm or tcg, is `{}`", value));
  config.qemu.accel = value == "auto" ? "" : value;
  return {};
}

Result<void> set_overlay_size(Config& config, const std::string& value) {
  const uint64_t mib = TRY(parse_mib(value));
  if (mib > kMaxGuestMemoryMib)
    return invalid_argument(
        fmt::format("must be at most {}T, is `{}`", kMaxGuestMemoryMib >> 20, value));
  config.box.overlay_size_mib = mib;
  return {};
}

Result<void> set_vsock_forward(Config& config, const std::string& value) {
  config.vsock_forward = value;
  return {};
}

// An annotation may set values, never what is run or read on the host.
constexpr Setting kSettings[] = {
    {"backend", "backend", set_backend, set_backend},
    {"vmm", "", set_vmm, nullptr},
    {"guest.directory", "", set_guest_directory, nullptr},
    {"guest.kernel_args", "", set_kernel_args, nullptr},
    {"guest.boot_timeout", "boot_timeout", set_boot_timeout, set_boot_timeout},
    {"machine.vcpus", "vcpus", set_vcpus, want_vcpus},
    {"machine.memory", "memory", set_memory, want_memory},
    {"machine.memory_overhead", "memory_overhead", set_memory_overhead, set_memory_overhead},
    {"machine.max_vcpus", "", set_max_vcpus, nullptr},
    {"machine.max_memory", "", set_max_memory, nullptr},
    {"machine.nested", "nested", set_nested, set_nested},
    {"machine.spare_drives", "spare_drives", set_spare_drives, set_spare_drives},
    {"network.mode", "network", set_network_mode, set_network_mode},
    {"network.pasta", "", set_pasta, nullptr},
    {"network.spare_interfaces", "", set_spare_interfaces, nullptr},
    {"qemu.binary", "", set_qemu_binary, nullptr},
    {"qemu.accel", "qemu_accel", set_qemu_accel, set_qemu_accel},
    {"box.overlay_size", "", set_overlay_size, nullptr},
    {"", "vsock-forward", nullptr, set_vsock_forward},
};

}  // namespace

std::span<const Setting> settings() { return kSettings; }

}  // namespace kiln::runtime
