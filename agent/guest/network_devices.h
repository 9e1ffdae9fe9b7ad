// SPDX-License-Identifier: Apache-2.0
// The machine's network devices, as sysfs shows them. One that no request names has no driver, and
// so no interface that a container could see.
#pragma once

#include <string>

#include "agent/guest/slots.h"
#include "base/error.h"

namespace kiln::agent {

class NetworkDevices {
 public:
  // Of the machine: /sys.
  explicit NetworkDevices(std::string sysfs) : sysfs_(std::move(sysfs)), slots_(sysfs_) {}

  // Gives every device without a driver one: also those in slots of the machine that were empty
  // when it booted.
  void bind_all() const { slots_.bind_all(); }
  // Takes the driver away from the device behind `interface`, which vanishes.
  Result<void> unbind(const std::string& interface) const;
  // Whether a virtio device is behind it.
  bool is_device(const std::string& interface) const;

 private:
  std::string device_link(const std::string& interface) const;
  std::string sysfs_;
  Slots slots_;
};

}  // namespace kiln::agent
