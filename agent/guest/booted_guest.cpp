// SPDX-License-Identifier: Apache-2.0
#include "agent/guest/booted_guest.h"

#include <fcntl.h>
#include <linux/random.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <vector>

#include "agent/guest/drives.h"
#include "agent/guest/vsock.h"
#include "base/file.h"
#include "base/format.h"
#include "base/log.h"

namespace kiln::agent {
namespace {

Result<void> set_clock(int64_t realtime_ns) {
  timespec time{};
  time.tv_sec = realtime_ns / 1'000'000'000;
  time.tv_nsec = realtime_ns % 1'000'000'000;
  if (clock_settime(CLOCK_REALTIME, &time) != 0) return sys_error("set the clock");
  return {};
}

unsigned nibble(char digit) {
  if (digit >= '0' && digit <= '9') return static_cast<unsigned>(digit - '0');
  return static_cast<unsigned>((digit | 0x20) - 'a' + 10);
}

// `hex` has been checked by the codec.
Result<void> add_entropy(const std::string& hex) {
  std::vector<unsigned char> bytes(hex.size() / 2);
  for (size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<unsigned char>(nibble(hex[2 * i]) << 4 | nibble(hex[2 * i + 1]));
  // struct rand_pool_info (random(4)) ends in an array of ints.
  std::vector<int> buffer(2 + (bytes.size() + sizeof(int) - 1) / sizeof(int));
  buffer[0] = static_cast<int>(bytes.size() * 8);
  buffer[1] = static_cast<int>(bytes.size());
  std::memcpy(&buffer[2], bytes.data(), bytes.size());
  const UniqueFd fd = TRY(open_file("/dev/random", O_WRONLY));
  if (ioctl(fd.get(), RNDADDENTROPY, buffer.data()) != 0) return sys_error("add entropy");
  return {};
}

// Drivers that are asked for by their device (Documentation/admin-guide/devices.txt of Linux).
struct DeviceModule {
  int64_t major;
  int64_t minor;
  const char* name;
};
constexpr DeviceModule kDeviceModules[] = {{10, 200, "tun"}, {10, 229, "fuse"}, {10, 237, "loop"}};

// Whether the kernel can switch the machine off: without ACPI, RB_POWER_OFF only halts.
bool has_acpi() { return access("/sys/firmware/acpi/tables", F_OK) == 0; }

}  // namespace

Result<void> BootedGuest::mount_share(const std::string& tag) {
  TRY(make_directories(protocol::kSharePath, 0755));
  if (mount(tag.c_str(), protocol::kSharePath, "virtiofs", 0, nullptr) != 0)
    return sys_error(fmt::format("mount share `{}`", tag));
  share_mounted_ = true;
  return {};
}

Result<void> BootedGuest::adopt(const protocol::SandboxRequest& request) {
  if (request.realtime_ns != 0) TRY(set_clock(request.realtime_ns));
  if (!request.entropy_hex.empty()) TRY(add_entropy(request.entropy_hex));
  if (!request.hostname.empty() &&
      sethostname(request.hostname.c_str(), request.hostname.size()) != 0)
    return sys_error("set the hostname");
  if (!request.share_tag.empty() && !share_mounted_) TRY(mount_share(request.share_tag));
  return {};
}

Result<void> BootedGuest::correct_clock(int64_t realtime_ns) {
  timespec now{};
  if (clock_gettime(CLOCK_REALTIME, &now) != 0) return sys_error("read the clock");
  const int64_t here_ns = int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
  // A clock that is right should not be set to a time that has passed on its way here.
  if (std::abs(realtime_ns - here_ns) <= protocol::kClockToleranceNs) return {};
  return set_clock(realtime_ns);
}

Result<void> BootedGuest::configure_network(const protocol::NetworkRequest& request) {
  // Without interfaces nobody needs the driver; one that is built in shows spare devices.
  if (!request.interfaces.empty()) TRY(modules_.load("virtio_net"));
  return network_.apply(request);
}

Result<std::string> BootedGuest::prepare_drive(const protocol::Drive& drive) {
  // Finding its devices is part of a driver's start.
  TRY(modules_.load("virtio_blk"));
  if (!drive.type.empty()) TRY(modules_.load(drive.type));
  auto found = find_drive(kBlockDevices, drive.id);
  if (found || found.error().kind != ErrorKind::kNotFound) return found;
  // It has come since the machine was started.
  slots_.bind_all();
  return find_drive(kBlockDevices, drive.id);
}

Result<void> BootedGuest::release_drive(const std::string& id) {
  const std::string path = TRY(find_drive(kBlockDevices, id));
  const std::string name = path.substr(path.rfind('/') + 1);
  return slots_.release(fmt::format("{}/{}/device", kBlockDevices, name));
}

Result<void> BootedGuest::prepare_device(const oci::Device& device) {
  const auto is_there = [&device] {
    return access(fmt::format("/sys/dev/char/{}:{}", device.major, device.minor).c_str(), F_OK) ==
           0;
  };
  if (is_there()) return {};
  for (const DeviceModule& entry : kDeviceModules) {
    if (device.major == entry.major && device.minor == entry.minor) TRY(modules_.load(entry.name));
  }
  if (is_there()) return {};
  return make_error(
      ErrorKind::kUnimplemented,
      fmt::format("device `{}` ({} {}:{}): the guest's kernel has no such device, and of the "
                  "host's only block devices can be in a VM",
                  device.path, device.type, device.major, device.minor));
}

Result<pid_t> BootedGuest::begin_sync() {
  if (!share_mounted_) return -1;
  // A child, because the host's disk decides how long it takes.
  const pid_t child = fork();
  if (child < 0) return sys_error("fork");
  if (child > 0) return child;
  const int fd = open(protocol::kSharePath, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  _exit(fd >= 0 && syncfs(fd) == 0 ? 0 : errno);
}

Result<void> BootedGuest::unmount_share() {
  if (!share_mounted_) return {};
  sync();
  if (umount2(protocol::kSharePath, 0) != 0) return sys_error("unmount the share");
  share_mounted_ = false;
  return {};
}

Result<UniqueFd> BootedGuest::dial(uint32_t port) { return begin_dial_host(port); }

void BootedGuest::power_off() {
  log_debug("powering off");
  if (has_acpi()) reboot(RB_POWER_OFF);
  reboot(RB_AUTOBOOT);
  // PID 1 must not end; the host's timeout is all that is left.
  while (true) pause();
}

}  // namespace kiln::agent
