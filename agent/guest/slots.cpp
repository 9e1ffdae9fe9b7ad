// SPDX-License-Identifier: Apache-2.0
#include "agent/guest/slots.h"

#include <unistd.h>

#include <filesystem>

#include "base/file.h"
#include "base/format.h"

namespace kiln::agent {
namespace {

// virtio-mmio devices by ACPI, as QEMU and kiln's own machine describe them.
constexpr std::string_view kSlotPrefix = "LNRO0005:";
constexpr const char* kDriver = "virtio-mmio";

}  // namespace

void Slots::bind_all() const {
  std::error_code failed;
  const std::filesystem::directory_iterator devices(sysfs_ + "/bus/platform/devices", failed);
  if (failed) return;
  for (const auto& device : devices) {
    const std::string name = device.path().filename().native();
    if (!name.starts_with(kSlotPrefix) || access((device.path() / "driver").c_str(), F_OK) == 0)
      continue;
    // An empty slot refuses: ENODEV.
    static_cast<void>(
        write_file(fmt::format("{}/bus/platform/drivers/{}/bind", sysfs_, kDriver), name));
  }
}

Result<void> Slots::release(const std::string& device) const {
  std::error_code failed;
  const auto slot = std::filesystem::canonical(device, failed).parent_path().filename();
  if (failed || !slot.native().starts_with(kSlotPrefix))
    return make_error(ErrorKind::kNotFound, fmt::format("no slot has `{}`", device));
  return write_file(fmt::format("{}/bus/platform/drivers/{}/unbind", sysfs_, kDriver),
                    slot.native());
}

}  // namespace kiln::agent
