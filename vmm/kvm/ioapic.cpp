// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/ioapic.h"

#include "vmm/kvm/layout.h"

namespace kiln::vmm {
namespace {

// Offsets into the page (82093AA §3.1) and registers behind them (§3.2).
constexpr uint64_t kSelect = 0x00;
constexpr uint64_t kWindow = 0x10;
constexpr uint32_t kRegisterId = 0x00;
constexpr uint32_t kRegisterVersion = 0x01;
constexpr uint32_t kRegisterArbitration = 0x02;
constexpr uint32_t kFirstEntry = 0x10;
// Without an EOI register, which came with version 0x20.
constexpr uint32_t kVersion = 0x11;
constexpr uint32_t kIdMask = 0x0f00'0000;

// Of a redirection table entry (§3.2.4).
constexpr uint64_t kVector = 0xff;
constexpr uint64_t kDeliveryMode = 0x700;
constexpr uint64_t kLogical = uint64_t{1} << 11;
constexpr uint64_t kReadOnly = (uint64_t{1} << 12) | (uint64_t{1} << 14);
constexpr uint64_t kMask = uint64_t{1} << 16;
constexpr unsigned kDestinationShift = 56;

// What the I/O APIC sends over the bus, in the terms of a message-signalled interrupt (Intel SDM
// vol. 3 §11.11).
kvm_irq_routing_entry message_of(unsigned pin, uint64_t entry) {
  kvm_irq_routing_entry route{};
  route.gsi = pin;
  route.type = KVM_IRQ_ROUTING_MSI;
  route.u.msi.address_lo = static_cast<uint32_t>(layout::kLapic) |
                           static_cast<uint32_t>(entry >> kDestinationShift) << 12 |
                           ((entry & kLogical) != 0 ? 1U << 2 : 0);
  // The trigger mode is left at edge: a level that nobody lowers again would be raised for ever.
  route.u.msi.data = static_cast<uint32_t>(entry & (kVector | kDeliveryMode));
  return route;
}

}  // namespace

uint32_t IoApic::read(uint64_t offset) {
  const std::lock_guard lock(mutex_);
  if (offset == kSelect) return selected_;
  return offset == kWindow ? read_register() : 0;
}

uint32_t IoApic::read_register() const {
  switch (selected_) {
    case kRegisterId:
    case kRegisterArbitration:
      return id_;
    case kRegisterVersion:
      return kVersion | static_cast<uint32_t>(entries_.size() - 1) << 16;
    default:
      break;
  }
  const uint32_t index = selected_ - kFirstEntry;
  if (selected_ < kFirstEntry || index / 2 >= entries_.size()) return 0;
  return static_cast<uint32_t>(entries_[index / 2] >> (index % 2 * 32));
}

void IoApic::write(uint64_t offset, uint32_t value) {
  const std::lock_guard lock(mutex_);
  if (offset == kSelect) {
    selected_ = value & 0xff;
  } else if (offset == kWindow && selected_ == kRegisterId) {
    id_ = value & kIdMask;
  } else if (offset == kWindow && selected_ >= kFirstEntry) {
    const uint32_t index = selected_ - kFirstEntry;
    if (index / 2 < entries_.size()) write_entry(index / 2, index % 2 != 0, value);
  }
}

void IoApic::write_entry(unsigned pin, bool high, uint32_t value) {
  const uint64_t before = entries_[pin];
  uint64_t entry = high ? (before & 0xffff'ffff) | uint64_t{value} << 32
                        : (before & ~uint64_t{0xffff'ffff}) | value;
  entry &= ~kReadOnly;
  entries_[pin] = entry;
  // Routes cost the kernel a grace period: not for entries that stay masked.
  const bool was_open = (before & kMask) == 0;
  const bool is_open = (entry & kMask) == 0;
  if (was_open != is_open || (is_open && entry != before)) update_routes();
}

void IoApic::update_routes() {
  std::vector<kvm_irq_routing_entry> routes;
  for (unsigned pin = 0; pin < entries_.size(); ++pin) {
    if ((entries_[pin] & kMask) == 0) routes.push_back(message_of(pin, entries_[pin]));
  }
  route_(routes);
}

}  // namespace kiln::vmm
