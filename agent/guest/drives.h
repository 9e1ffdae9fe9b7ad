// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "base/error.h"

namespace kiln::agent {

inline constexpr const char* kBlockDevices = "/sys/block";

// The virtio block device (/dev/vda) with this serial number, by the kernel's directory of block
// devices. kNotFound without one.
Result<std::string> find_drive(const std::string& block_devices, const std::string& id);

}  // namespace kiln::agent
