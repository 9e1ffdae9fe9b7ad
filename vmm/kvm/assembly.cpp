// SPDX-License-Identifier: Apache-2.0
// Which devices a machine has, and in which slots.
#include "vmm/kvm/assembly.h"

#include <fcntl.h>
#include <linux/virtio_fs.h>

#include <cstring>

#include "base/file.h"
#include "base/format.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "vmm/api/control.h"
#include "vmm/confine/sandbox.h"
#include "vmm/confine/syscall_filter.h"
#include "vmm/kvm/layout.h"
#include "vmm/vhost_user/frontend.h"
#include "vmm/virtio/balloon/balloon_device.h"
#include "vmm/virtio/block/block_device.h"
#include "vmm/virtio/console/console_device.h"
#include "vmm/virtio/net/net_device.h"
#include "vmm/virtio/rng/rng_device.h"
#include "vmm/virtio/vsock/vsock_device.h"

namespace kiln::vmm {
namespace {

using Made = Result<std::unique_ptr<VirtioDevice>>;

// A FUSE request of the largest size takes 256 pages and two headers.
constexpr uint16_t kFsQueueSize = 256;
// Where the directory of the vsock's sockets is in the empty root.
constexpr const char* kVsockPlace = "vsock";

std::string command_line(const VmConfig& config, bool serial_console) {
  // panic=-1 resets at once, and that is the machine's end. The self-tests of the kernel's ciphers
  // take a tenth of a boot. There is no PCI bus: looking for one takes hundreds of exits, and not
  // finding any is an error (level 3) to Linux. reboot=a: a kernel with EFI support would take that
  // for the way to reset a machine with hardware-reduced ACPI, and end up in a BIOS that is not
  // there.
  std::string line = "loglevel=3 panic=-1 reboot=a cryptomgr.notests pci=off";
  // No console costs a boot time; errors of the kernel's still come out, character by character.
  if (!serial_console && !config.console)
    line += fmt::format(" earlycon=uart8250,io,{:#x} keep_bootcon 8250.nr_uarts=0",
                        layout::kSerialPort);
  if (config.console) line += " console=hvc0";
  if (!config.boot_source.boot_args.empty()) line += " " + config.boot_source.boot_args;
  return line;
}

unsigned count_devices(const VmConfig& config) {
  return static_cast<unsigned>(1 + config.fs.size() + config.drives.size() +
                               config.network_interfaces.size()) +
         (config.balloon.present ? 1U : 0U) + (config.entropy.present ? 1U : 0U) +
         (config.console ? 1U : 0U);
}

Result<void> confine_thread(KvmMachineOptions::Thread thread) {
  if (kSanitized) return {};
  switch (thread) {
    case KvmMachineOptions::Thread::kVcpu:
      return install_filter(ThreadKind::kVcpu);
    case KvmMachineOptions::Thread::kDevice:
      return install_filter(ThreadKind::kDevice);
    case KvmMachineOptions::Thread::kOwner:
      return install_filter(ThreadKind::kApi);
  }
  return {};
}

// What has a path, opened while there are paths.
struct OpenedFiles {
  std::optional<Kvm> kvm;
  UniqueFd kernel;
  UniqueFd initramfs;
  VsockOptions vsock;
  std::string vsock_directory;
};

Result<OpenedFiles> open_files(const VmConfig& config) {
  OpenedFiles files;
  files.kvm = TRY(Kvm::open());
  files.kernel = TRY(open_file(config.boot_source.kernel_image_path, O_RDONLY));
  if (!config.boot_source.initrd_path.empty())
    files.initramfs = TRY(open_file(config.boot_source.initrd_path, O_RDONLY));
  files.vsock.guest_cid = config.vsock.guest_cid;
  files.vsock.uds_path = config.vsock.uds_path;
  files.vsock_directory = TRY(open_vsock_paths(files.vsock, kVsockPlace));
  return files;
}

Result<void> confine_process(const OpenedFiles& files) {
  Confinement confinement = vmm_confinement();
  confinement.kept.push_back({files.vsock_directory, kVsockPlace});
  confinement.owner_fd = kVmControlFd;
  return wrap(enter(confinement), "confine kiln-vmm");
}

KvmMachineOptions machine_options(const VmConfig& config, OpenedFiles& files) {
  KvmMachineOptions options;
  options.kernel = std::move(files.kernel);
  options.initramfs = std::move(files.initramfs);
  options.serial_console = config.boot_source.boot_args.find("ttyS0") != std::string::npos;
  options.command_line = command_line(config, options.serial_console);
  options.vcpus = config.machine.vcpu_count;
  options.nested = config.machine.nested;
  options.ram.size_mib = config.machine.mem_size_mib;
  // Other processes serve these devices and need the memory.
  if (!config.fs.empty()) options.ram.backing = RamOptions::Backing::kMemfd;
  if (config.machine.huge_pages) options.ram.backing = RamOptions::Backing::kHugetlbfs;
  options.slots = count_devices(config) + config.machine.spare_slots;
  options.confine_thread = confine_thread;
  return options;
}

// virtio 1.2 §5.11.4: the tag, padded with zeroes, and the number of request queues.
std::vector<std::byte> fs_config(const std::string& tag) {
  virtio_fs_config config{};
  std::memcpy(config.tag, tag.data(), std::min(tag.size(), sizeof config.tag));
  config.num_request_queues = 1;
  const auto bytes = std::as_bytes(std::span(&config, 1));
  return {bytes.begin(), bytes.end()};
}

Result<void> attach_fs(KvmMachine& machine, const FsConfig& share) {
  TRY(machine.attach("fs-" + share.tag, [&](EventLoop& loop) -> Made {
    VhostUserOptions options;
    options.socket = UniqueFd(share.vhost_user_fd);
    options.type = DeviceType::kFs;
    options.queue_sizes = {kFsQueueSize, kFsQueueSize};
    options.config = fs_config(share.tag);
    return TRY(VhostUserFrontend::create(
        loop, std::move(options), [&machine, tag = share.tag](const Error& why) {
          machine.fail(fmt::format("share `{}` is lost: {}", tag, why.message));
        }));
  }));
  return {};
}

Result<void> attach_small_devices(KvmMachine& machine, const VmConfig& config) {
  if (config.entropy.present) {
    TRY(machine.attach("entropy", [&](EventLoop& loop) -> Made {
      return TRY(RngDevice::create(loop, config.entropy.rate_limiter));
    }));
  }
  if (config.balloon.present) {
    TRY(machine.attach("balloon", [&](EventLoop& loop) -> Made {
      BalloonOptions options;
      options.amount_mib = config.balloon.amount_mib;
      options.deflate_on_oom = config.balloon.deflate_on_oom;
      options.stats_polling_interval_s = config.balloon.stats_polling_interval_s;
      options.free_page_reporting = config.balloon.free_page_reporting;
      return TRY(BalloonDevice::create(loop, options));
    }));
  }
  if (config.console) {
    TRY(machine.attach("console", [&](EventLoop& loop) -> Made {
      return TRY(ConsoleDevice::create(
          loop, [&machine](std::string_view text) { machine.append_console(text); }));
    }));
  }
  return {};
}

}  // namespace

Result<void> attach_drive(KvmMachine& machine, const DriveConfig& drive) {
  TRY(machine.attach(drive.drive_id, [&](EventLoop& loop) -> Made {
    BlockOptions options;
    options.file = UniqueFd(drive.fd);
    options.serial = drive.drive_id;
    options.read_only = drive.is_read_only;
    options.rate_limiter = drive.rate_limiter;
    return TRY(BlockDevice::create(loop, std::move(options)));
  }));
  return {};
}

Result<void> attach_network_interface(KvmMachine& machine,
                                      const NetworkInterfaceConfig& interface) {
  UniqueFd tap(interface.tap_fd);
  const auto mac = TRY(parse_mac(interface.guest_mac));
  TRY(machine.attach(interface.iface_id, [&](EventLoop& loop) -> Made {
    NetOptions options;
    options.tap = std::move(tap);
    options.mac = mac;
    options.mtu = interface.mtu;
    options.rx_limiter = interface.rx_rate_limiter;
    options.tx_limiter = interface.tx_rate_limiter;
    return TRY(NetDevice::create(loop, std::move(options)));
  }));
  return {};
}

Result<void> set_balloon(KvmMachine& machine, uint32_t amount_mib) {
  return machine.with_device("balloon", [&](VirtioDevice& device) -> Result<void> {
    return static_cast<BalloonDevice&>(device).set_target_mib(amount_mib);
  });
}

Result<std::unique_ptr<KvmMachine>> assemble_kvm(EventLoop& loop, const VmConfig& config,
                                                 const TimePoint& process_start,
                                                 Machine::Callbacks callbacks) {
  Stages stages(process_start);
  stages.reached("boot document");
  OpenedFiles files = TRY(open_files(config));
  stages.reached("files");
  TRY(confine_process(files));
  stages.reached("confined");
  auto machine = TRY(KvmMachine::create(loop, *files.kvm, machine_options(config, files),
                                        std::move(stages), std::move(callbacks)));
  TRY(machine->attach("vsock", [&](EventLoop& device_loop) -> Made {
    return TRY(VsockDevice::create(device_loop, std::move(files.vsock)));
  }));
  for (const FsConfig& share : config.fs) TRY(attach_fs(*machine, share));
  for (const DriveConfig& drive : config.drives) TRY(attach_drive(*machine, drive));
  for (const NetworkInterfaceConfig& interface : config.network_interfaces)
    TRY(attach_network_interface(*machine, interface));
  TRY(attach_small_devices(*machine, config));
  return machine;
}

}  // namespace kiln::vmm
