// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "base/error.h"

namespace kiln::agent {

// The machine's slots for virtio devices (virtio-mmio by ACPI), as sysfs shows them. A device that
// comes into an empty slot is found when the slot gets its driver again; one that goes gives its
// slot up first, because the next one there may be of another kind.
class Slots {
 public:
  // Of the machine: /sys.
  explicit Slots(std::string sysfs) : sysfs_(std::move(sysfs)) {}

  // Gives every slot without a driver one, and with it the device in it. Empty ones have none in
  // spite of it.
  void bind_all() const;
  // `device`: what links to a virtio device in sysfs (/sys/block/vda/device), which vanishes.
  Result<void> release(const std::string& device) const;

 private:
  std::string sysfs_;
};

}  // namespace kiln::agent
