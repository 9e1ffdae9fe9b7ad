// SPDX-License-Identifier: Apache-2.0
#include "runtime/guest/kernel_options.h"

#include <algorithm>

#include "base/bytes.h"
#include "base/format.h"
#include "runtime/guest/decompress.h"

namespace kiln::runtime {
namespace {

constexpr size_t kMaxConfigBytes = 8U << 20;

// `without`: what does not work in a guest without it; empty if nothing does. `module`: loaded
// where the option is `m`; empty if it must be built in.
struct Wanted {
  std::string_view option;
  std::string_view module;
  std::string_view without;
};

constexpr Wanted kWanted[] = {
    // Boot and the first program.
    {"PVH", "", ""},
    {"BLK_DEV_INITRD", "", ""},
    {"BINFMT_ELF", "", ""},
    {"SERIAL_8250_CONSOLE", "", ""},
    {"DEVTMPFS", "", ""},
    {"TMPFS", "", ""},
    {"PROC_FS", "", ""},
    {"SYSFS", "", ""},
    {"UNIX98_PTYS", "", ""},
    // Devices, in the order in which they are loaded.
    {"VIRTIO_MMIO", "virtio_mmio", ""},
    {"VIRTIO_VSOCKETS", "vmw_vsock_virtio_transport", ""},
    {"FUSE_FS", "fuse", ""},
    {"VIRTIO_FS", "virtiofs", ""},
    {"OVERLAY_FS", "overlay", "kiln box and shares with a writable overlay"},
    // Containers.
    {"CGROUPS", "", ""},
    {"MEMCG", "", ""},
    {"CGROUP_PIDS", "", ""},
    {"NAMESPACES", "", ""},
    {"PID_NS", "", ""},
    {"NET_NS", "", ""},
    {"IPC_NS", "", ""},
    {"UTS_NS", "", ""},
    {"USER_NS", "", "user namespaces"},
    {"TIME_NS", "", "time namespaces (linux.timeOffsets)"},
    {"SECCOMP_FILTER", "", "linux.seccomp"},
    {"CFS_BANDWIDTH", "", "CPU quotas"},
    {"CPUSETS", "", "linux.resources.cpu.cpus and mems"},
    {"BLK_CGROUP", "", "linux.resources.blockIO"},
    {"CGROUP_HUGETLB", "", "linux.resources.hugepageLimits"},
    {"CGROUP_BPF", "", "linux.resources.devices"},
    {"POSIX_MQUEUE", "", "mqueue mounts"},
};

// One of them describes the devices to the kernel.
constexpr std::string_view kDeviceDiscovery[] = {"ACPI", "VIRTIO_MMIO_CMDLINE_DEVICES"};

std::string value_of(const KernelOptions& options, std::string_view name) {
  const auto entry = options.find(name);
  return entry == options.end() ? "n" : entry->second;
}

}  // namespace

KernelOptions parse_kernel_options(std::string_view config) {
  constexpr std::string_view kPrefix = "CONFIG_";
  KernelOptions out;
  while (!config.empty()) {
    const size_t end = std::min(config.find('\n'), config.size());
    const std::string_view line = config.substr(0, end);
    config.remove_prefix(std::min(end + 1, config.size()));
    const size_t equals = line.find('=');
    if (!line.starts_with(kPrefix) || equals == std::string_view::npos) continue;
    const std::string_view value = line.substr(equals + 1);
    if (value != "n")
      out.insert_or_assign(std::string(line.substr(kPrefix.size(), equals - kPrefix.size())),
                           std::string(value));
  }
  return out;
}

Result<std::optional<std::string>> embedded_config(std::string_view elf) {
  // kernel/configs.c: IKCFG_ST, the gzipped file, IKCFG_ED.
  constexpr std::string_view kStart = "IKCFG_ST\x1f\x8b";
  constexpr size_t kMarkBytes = 8;
  const size_t start = elf.find(kStart);
  if (start == std::string_view::npos) return std::optional<std::string>();
  const auto packed = as_bytes(elf.substr(start + kMarkBytes));
  return std::optional(TRY(wrap(decompress(Compression::kGzip, packed, kMaxConfigBytes),
                                "unpack the kernel's own .config")));
}

OptionFindings check_kernel_options(const KernelOptions& options) {
  OptionFindings findings;
  const auto look_at = [&](std::string_view name) {
    std::string value = value_of(options, name);
    findings.found.insert_or_assign(std::string(name), value);
    return value;
  };
  for (const Wanted& wanted : kWanted) {
    const std::string value = look_at(wanted.option);
    if (value == "m" && !wanted.module.empty()) {
      findings.modules.emplace_back(wanted.module);
    } else if (value != "y" && wanted.without.empty()) {
      findings.missing.push_back(fmt::format("CONFIG_{}", wanted.option));
    } else if (value != "y") {
      findings.recommended.push_back(
          fmt::format("CONFIG_{} (needed for {})", wanted.option, wanted.without));
    }
  }
  const bool finds_devices =
      std::any_of(std::begin(kDeviceDiscovery), std::end(kDeviceDiscovery),
                  [&](std::string_view name) { return look_at(name) == "y"; });
  if (!finds_devices) findings.missing.emplace_back("CONFIG_ACPI");
  look_at("VIRTIO_MMIO_CMDLINE_DEVICES");
  look_at("PCI");
  return findings;
}

std::vector<std::string> wanted_modules() {
  std::vector<std::string> out;
  for (const Wanted& wanted : kWanted) {
    if (!wanted.module.empty()) out.emplace_back(wanted.module);
  }
  return out;
}

}  // namespace kiln::runtime
