// SPDX-License-Identifier: Apache-2.0
// The machine's network devices, as sysfs shows them. One that no request names has no driver, and
// so no interface that a container could see.
#pragma once

#include <string>

#include "base/error.h"

namespace kiln::agent {

class NetworkDevices {
 public:
  // Of the machine: /sys.
  explicit NetworkDevices(std::string sysfs) : sysfs_(std::move(sysfs)) {}

  // Gives every device without a driver one: also those in slots of the machine that were empty
  // when it booted. Devices that have none in spite of it are left as they are.
  void bind_all() const;
  // Takes the driver away from the device behind `interface`, which vanishes.
  Result<void> unbind(const std::string& interface) const;
  // Whether a virtio device is behind it.
  bool is_device(const std::string& interface) const;

 private:
  void bind_driverless(const std::string& bus, const std::string& driver,
                       const std::string& prefix) const;
  std::string sysfs_;
};

}  // namespace kiln::agent
