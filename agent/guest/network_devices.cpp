// SPDX-License-Identifier: Apache-2.0
#include "agent/guest/network_devices.h"

#include <dirent.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <memory>
#include <vector>

#include "base/file.h"
#include "base/format.h"

namespace kiln::agent {
namespace {

// virtio-mmio devices by ACPI, as QEMU and kiln's own machine describe them.
constexpr const char* kSlotPrefix = "LNRO0005:";
constexpr const char* kDriver = "virtio_net";
constexpr const char* kNetDeviceId = "0x0001";  // virtio 1.2 §5.1.1

struct CloseDir {
  void operator()(DIR* stream) const { closedir(stream); }
};

std::vector<std::string> names_in(const std::string& directory) {
  std::vector<std::string> names;
  const std::unique_ptr<DIR, CloseDir> stream(opendir(directory.c_str()));
  if (!stream) return names;
  while (const dirent* entry = readdir(stream.get())) {
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  return names;
}

std::string link_target_name(const std::string& path) {
  std::array<char, PATH_MAX> buffer{};
  const ssize_t size = readlink(path.c_str(), buffer.data(), buffer.size());
  if (size <= 0) return {};
  const std::string target(buffer.data(), static_cast<size_t>(size));
  return target.substr(target.rfind('/') + 1);
}

}  // namespace

void NetworkDevices::bind_driverless(const std::string& bus, const std::string& driver,
                                     const std::string& prefix) const {
  const std::string devices = fmt::format("{}/bus/{}/devices", sysfs_, bus);
  for (const std::string& name : names_in(devices)) {
    const std::string device = fmt::format("{}/{}", devices, name);
    if (!name.starts_with(prefix) || access((device + "/driver").c_str(), F_OK) == 0) continue;
    if (bus == "virtio") {
      const auto id = read_file(device + "/device", 64);
      if (!id || !id->starts_with(kNetDeviceId)) continue;
    }
    // An empty slot refuses: ENODEV.
    static_cast<void>(
        write_file(fmt::format("{}/bus/{}/drivers/{}/bind", sysfs_, bus, driver), name));
  }
}

void NetworkDevices::bind_all() const {
  bind_driverless("platform", "virtio-mmio", kSlotPrefix);
  bind_driverless("virtio", kDriver, "virtio");
}

Result<void> NetworkDevices::unbind(const std::string& interface) const {
  const std::string device =
      link_target_name(fmt::format("{}/class/net/{}/device", sysfs_, interface));
  if (device.empty())
    return make_error(ErrorKind::kNotFound, fmt::format("no device behind `{}`", interface));
  return write_file(fmt::format("{}/bus/virtio/drivers/{}/unbind", sysfs_, kDriver), device);
}

bool NetworkDevices::is_device(const std::string& interface) const {
  return link_target_name(fmt::format("{}/class/net/{}/device/driver", sysfs_, interface)) ==
         kDriver;
}

}  // namespace kiln::agent
