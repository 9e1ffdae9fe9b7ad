// SPDX-License-Identifier: Apache-2.0
#include "agent/guest/network_devices.h"

#include <filesystem>

#include "base/format.h"

namespace kiln::agent {

std::string NetworkDevices::device_link(const std::string& interface) const {
  return fmt::format("{}/class/net/{}/device", sysfs_, interface);
}

Result<void> NetworkDevices::unbind(const std::string& interface) const {
  return wrap(slots_.release(device_link(interface)),
              fmt::format("take `{}` from the guest", interface));
}

bool NetworkDevices::is_device(const std::string& interface) const {
  std::error_code failed;
  const auto driver = std::filesystem::read_symlink(device_link(interface) + "/driver", failed);
  return !failed && driver.filename() == "virtio_net";
}

}  // namespace kiln::agent
