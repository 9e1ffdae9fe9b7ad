// SPDX-License-Identifier: Apache-2.0
#include "vmm/qemu/command_line.h"

#include <sys/stat.h>
#include <x86intrin.h>

#include <ctime>

#include "base/format.h"

namespace kiln::vmm {
namespace {

constexpr int64_t kMeasuredNs = 10'000'000;

int64_t monotonic_raw_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC_RAW, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

// In an option's value QEMU takes a comma for the next option.
std::string escape_commas(const std::string& text) {
  std::string out;
  for (const char c : text) {
    out += c;
    if (c == ',') out += ',';
  }
  return out;
}

std::string cpu_model(bool tcg, bool nested) {
  if (!tcg) return nested ? "host" : "host,-vmx,-svm";
  // `max` with nested paging freezes inner guests; EPYC does not.
  return nested ? "EPYC,+svm,+npt" : "max,-svm";
}

std::string kernel_command_line(const VmConfig& config, bool tcg, uint64_t tsc_khz) {
  // panic=-1 reboots at once, and -no-reboot makes that QEMU's end. The self-tests of the kernel's
  // ciphers take a tenth of an emulated boot.
  std::string line = "console=ttyS0 quiet panic=-1 cryptomgr.notests";
  // Without it the kernel may find the emulated TSC unstable, having no other clock to fall back
  // to.
  if (tcg && tsc_khz != 0) line += fmt::format(" tsc_early_khz={}", tsc_khz);
  if (!config.boot_source.boot_args.empty()) line += " " + config.boot_source.boot_args;
  return line;
}

// By descriptor, through a set of its own: QEMU opens no path.
Result<void> add_drive(const VmConfig& config, size_t index, std::vector<std::string>& out) {
  const DriveConfig& drive = config.drives[index];
  struct stat info {};
  if (fstat(drive.fd, &info) != 0) return sys_error(fmt::format("stat drive `{}`", drive.drive_id));
  const char* driver = S_ISBLK(info.st_mode) ? "host_device" : "file";
  const char* read_only = drive.is_read_only ? "on" : "off";
  out.insert(out.end(),
             {"-add-fd", fmt::format("fd={},set={}", drive_fd(config, index), index + 1),
              // The owner has locked it.
              "-blockdev",
              fmt::format("driver={},node-name=file{},filename=/dev/fdset/{},read-only={},"
                          "locking=off,discard=unmap",
                          driver, index, index + 1, read_only),
              "-blockdev",
              fmt::format("driver=raw,node-name=drive{},file=file{},read-only={},discard=unmap",
                          index, index, read_only),
              "-device",
              // QEMU takes 20 bytes (virtio 1.2 §5.2.6), and kiln's own device the first 20.
              fmt::format("virtio-blk-device,drive=drive{},serial={}", index,
                          escape_commas(drive.drive_id.substr(0, 20)))});
  return {};
}

void add_network_interface(const VmConfig& config, size_t index, std::vector<std::string>& out) {
  const NetworkInterfaceConfig& interface = config.network_interfaces[index];
  out.insert(out.end(),
             {"-netdev", fmt::format("tap,id=net{},fd={}", index, tap_fd(config, index)), "-device",
              fmt::format("virtio-net-device,netdev=net{},mac={},host_mtu={}", index,
                          escape_commas(interface.guest_mac), interface.mtu)});
}

}  // namespace

TscSample sample_tsc() {
  // The tightest of a few brackets: a preemption between the two reads would be an error.
  TscSample best{};
  int64_t best_width = INT64_MAX;
  for (int i = 0; i < 8; ++i) {
    const int64_t before = monotonic_raw_ns();
    const uint64_t ticks = __rdtsc();
    const int64_t after = monotonic_raw_ns();
    if (after - before >= best_width) continue;
    best_width = after - before;
    best = {ticks, before + (after - before) / 2};
  }
  return best;
}

uint64_t tsc_khz_since(const TscSample& start) {
  const int64_t missing = kMeasuredNs - (monotonic_raw_ns() - start.monotonic_ns);
  if (missing > 0) {
    const timespec wait{0, missing};
    nanosleep(&wait, nullptr);
  }
  const TscSample end = sample_tsc();
  const auto elapsed_ns = static_cast<uint64_t>(end.monotonic_ns - start.monotonic_ns);
  return static_cast<uint64_t>(static_cast<double>(end.ticks - start.ticks) * 1e6 /
                               static_cast<double>(elapsed_ns));
}

Result<std::vector<std::string>> qemu_arguments(const VmConfig& config, const std::string& accel,
                                                uint64_t tsc_khz) {
  const bool tcg = accel == "tcg";
  if (!tcg && accel != "kvm") return invalid_argument(fmt::format("accelerator `{}`", accel));
  std::vector<std::string> out = {
      config.qemu_binary.empty() ? "qemu-system-x86_64" : config.qemu_binary,
      "-no-user-config",
      "-nodefaults",
      "-no-reboot",
      "-display",
      "none",
      // ACPI, because distribution kernels find virtio-mmio devices nowhere else. A clock, because
      // they look for one for a second when there is none.
      "-M",
      "microvm,acpi=on,pit=off,pic=off,rtc=on,isa-serial=on,usb=off,pcie=off,memory-backend=mem",
      "-accel",
      // By default the buffer of translated code grows to an eighth of the host's memory, at most
      // 1 GiB, which nobody could reckon with (runtime/cgroup/host_limits.cpp).
      tcg ? "tcg,thread=multi,tb-size=256" : "kvm",
      "-cpu",
      cpu_model(tcg, config.machine.nested),
      "-smp",
      fmt::format("{}", config.machine.vcpu_count),
      "-m",
      fmt::format("{}M", config.machine.mem_size_mib),
      // Shared, so that the vhost-user servers can map it.
      "-object",
      fmt::format("memory-backend-memfd,id=mem,size={}M,share=on", config.machine.mem_size_mib),
      "-global",
      "virtio-mmio.force-legacy=false",
      "-sandbox",
      "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
      "-chardev",
      fmt::format("socket,id=qmp,fd={}", kQmpFd),
      "-mon",
      "chardev=qmp,mode=control",
      "-chardev",
      fmt::format("socket,id=serial,fd={}", kSerialFd),
      "-serial",
      "chardev:serial",
      "-chardev",
      fmt::format("socket,id=vsock,fd={}", kVsockFd),
      "-device",
      "vhost-user-vsock-device,chardev=vsock",
      "-kernel",
      config.boot_source.kernel_image_path,
      "-initrd",
      config.boot_source.initrd_path,
      "-append",
      kernel_command_line(config, tcg, tsc_khz),
  };
  for (size_t i = 0; i < config.fs.size(); ++i) {
    out.emplace_back("-chardev");
    out.push_back(fmt::format("socket,id=fs{},fd={}", i, kFirstFsFd + static_cast<int>(i)));
    out.emplace_back("-device");
    out.push_back(fmt::format("vhost-user-fs-device,chardev=fs{},tag={},queue-size=256", i,
                              escape_commas(config.fs[i].tag)));
  }
  for (size_t i = 0; i < config.drives.size(); ++i) TRY(add_drive(config, i, out));
  for (size_t i = 0; i < config.network_interfaces.size(); ++i)
    add_network_interface(config, i, out);
  return out;
}

}  // namespace kiln::vmm
