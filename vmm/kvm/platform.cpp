// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/platform.h"

#include <algorithm>
#include <cstring>

#include "vmm/kvm/layout.h"

namespace kiln::vmm {
namespace {

// The keyboard controller's "pulse the reset line", with which kernels reset PCs.
constexpr uint16_t kKeyboardCommandPort = 0x64;
constexpr uint8_t kKeyboardReset = 0xfe;
// There is no clock chip. All ones there would be an update that never ends, and a kernel that
// waits for it.
constexpr uint16_t kClockDataPort = 0x71;
constexpr uint8_t kSleepTypeMask = 0x7;

bool within(uint64_t address, size_t size, uint64_t start, uint64_t length) {
  return address >= start && address - start < length && size <= length - (address - start);
}

}  // namespace

MmioTransport* Platform::slot_at(uint64_t address) const {
  const uint64_t index = (address - layout::kMmioStart) / layout::kMmioSlotSize;
  return address >= layout::kMmioStart && index < slots_.size() ? slots_[index] : nullptr;
}

void Platform::read_memory(uint64_t address, std::span<std::byte> out) {
  if (MmioTransport* slot = slot_at(address))
    return slot->read(address % layout::kMmioSlotSize, out);
  std::fill(out.begin(), out.end(), std::byte{0xff});
  if (out.size() != sizeof(uint32_t) ||
      !within(address, out.size(), layout::kIoapic, layout::kIoapicSize))
    return;
  const uint32_t value = ioapic_.read(address - layout::kIoapic);
  std::memcpy(out.data(), &value, sizeof value);
}

void Platform::write_memory(uint64_t address, std::span<const std::byte> bytes) {
  if (MmioTransport* slot = slot_at(address))
    return slot->write(address % layout::kMmioSlotSize, bytes);
  if (bytes.size() != sizeof(uint32_t) ||
      !within(address, bytes.size(), layout::kIoapic, layout::kIoapicSize))
    return;
  uint32_t value = 0;
  std::memcpy(&value, bytes.data(), sizeof value);
  ioapic_.write(address - layout::kIoapic, value);
}

void Platform::read_port(uint16_t port, std::span<std::byte> out) {
  std::fill(out.begin(), out.end(), std::byte{0xff});
  if (out.size() != 1) return;
  if (within(port, 1, layout::kSerialPort, Serial::kPorts)) {
    out[0] = std::byte{serial_.read(port - unsigned{layout::kSerialPort})};
  } else if (port == kClockDataPort || port == layout::kSleepStatusPort) {
    out[0] = std::byte{0};
  }
}

std::optional<VmExit> Platform::write_port(uint16_t port, std::span<const std::byte> bytes) {
  if (bytes.size() != 1) return std::nullopt;
  const auto value = std::to_integer<uint8_t>(bytes[0]);
  if (within(port, 1, layout::kSerialPort, Serial::kPorts)) {
    serial_.write(port - unsigned{layout::kSerialPort}, value);
  } else if (port == layout::kSleepControlPort) {
    // ACPI 6.5 §4.8.3.7: the type counts when SLP_EN is written with it.
    if ((value & layout::kSleepEnable) != 0 &&
        (value >> layout::kSleepTypeShift & kSleepTypeMask) == layout::kSleepTypeS5)
      return VmExit{VmExit::Reason::kPoweroff, "the guest has powered off"};
  } else if ((port == layout::kResetPort && value == layout::kResetValue) ||
             (port == kKeyboardCommandPort && value == kKeyboardReset)) {
    return VmExit{VmExit::Reason::kReset, "the guest has reset itself"};
  }
  return std::nullopt;
}

}  // namespace kiln::vmm
