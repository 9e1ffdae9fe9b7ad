// SPDX-License-Identifier: Apache-2.0
#include "tests/payloads/lib/virtio_mmio.h"

#include "tests/payloads/lib/arguments.h"
#include "tests/payloads/lib/interrupts.h"
#include "tests/payloads/lib/time.h"
#include "vmm/kvm/layout.h"

namespace payload {
namespace {

namespace layout = kiln::vmm::layout;

constexpr uint32_t kMagic = 0x74726976;  // "virt"
constexpr uint32_t kVersion = 2;
constexpr unsigned kMaxSlots = layout::kMaxSlots;
constexpr unsigned kFirstDeviceVector = 48;
static_assert(kFirstDeviceVector + kMaxSlots <= kSpuriousVector);

struct Counters {
  uint64_t base;
  uint32_t queue;
  uint32_t config;
};
Counters counters[kMaxSlots];

uint64_t slot_base(unsigned slot) {
  return argument("mmio", layout::kMmioStart) + slot * argument("stride", layout::kMmioSlotSize);
}

void handle(unsigned vector) {
  Counters& device = counters[vector - kFirstDeviceVector];
  const uint32_t status = mmio_read32(device.base + VIRTIO_MMIO_INTERRUPT_STATUS);
  mmio_write32(device.base + VIRTIO_MMIO_INTERRUPT_ACK, status);
  if ((status & VIRTIO_MMIO_INT_VRING) != 0) __atomic_add_fetch(&device.queue, 1, __ATOMIC_RELAXED);
  if ((status & VIRTIO_MMIO_INT_CONFIG) != 0)
    __atomic_add_fetch(&device.config, 1, __ATOMIC_RELAXED);
}

}  // namespace

bool Device::find(uint32_t device_id, Device& found, unsigned skip) {
  const auto slots = static_cast<unsigned>(argument("slots", kMaxSlots));
  for (unsigned slot = 0; slot < slots && slot < kMaxSlots; ++slot) {
    found.base_ = slot_base(slot);
    if (found.read(VIRTIO_MMIO_MAGIC_VALUE) != kMagic ||
        found.read(VIRTIO_MMIO_VERSION) != kVersion ||
        found.read(VIRTIO_MMIO_DEVICE_ID) != device_id || skip-- != 0)
      continue;
    found.listen(slot);
    return true;
  }
  return false;
}

void Device::listen(unsigned slot) {
  slot_ = slot;
  counters[slot].base = base_;
  set_handler(kFirstDeviceVector + slot, handle);
  route(0);
}

void Device::route(uint32_t apic_id) const {
  route_gsi(static_cast<unsigned>(argument("gsi", layout::kFirstGsi)) + slot_,
            kFirstDeviceVector + slot_,
            has_argument("trigger=level") ? Trigger::kLevel : Trigger::kEdge, apic_id);
}

uint32_t Device::read(uint32_t register_offset) const {
  return mmio_read32(base_ + register_offset);
}

void Device::write(uint32_t register_offset, uint32_t value) const {
  mmio_write32(base_ + register_offset, value);
}

uint8_t Device::config8(uint32_t offset) const { return mmio_read8(config_address() + offset); }
uint16_t Device::config16(uint32_t offset) const { return mmio_read16(config_address() + offset); }
uint32_t Device::config32(uint32_t offset) const { return mmio_read32(config_address() + offset); }

uint64_t Device::config64(uint32_t offset) const {
  uint64_t value = 0;
  wait_until([&] {
    const uint32_t before = read(VIRTIO_MMIO_CONFIG_GENERATION);
    value = config32(offset) | (uint64_t{config32(offset + 4)} << 32);
    return read(VIRTIO_MMIO_CONFIG_GENERATION) == before;
  });
  return value;
}

bool Device::reset() const {
  write(VIRTIO_MMIO_STATUS, 0);
  return wait_until([this] { return status() == 0; });
}

uint64_t Device::offered_features() const {
  write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
  const uint64_t high = read(VIRTIO_MMIO_DEVICE_FEATURES);
  write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
  return (high << 32) | read(VIRTIO_MMIO_DEVICE_FEATURES);
}

void Device::accept_features(uint64_t features) const {
  write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
  write(VIRTIO_MMIO_DRIVER_FEATURES, static_cast<uint32_t>(features >> 32));
  write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
  write(VIRTIO_MMIO_DRIVER_FEATURES, static_cast<uint32_t>(features));
}

bool Device::negotiate(uint64_t features) const {
  if (!reset()) return false;
  add_status(VIRTIO_CONFIG_S_ACKNOWLEDGE);
  add_status(VIRTIO_CONFIG_S_DRIVER);
  accept_features(features);
  add_status(VIRTIO_CONFIG_S_FEATURES_OK);
  return (status() & VIRTIO_CONFIG_S_FEATURES_OK) != 0;
}

uint32_t Device::max_queue_size(unsigned queue) const {
  write(VIRTIO_MMIO_QUEUE_SEL, queue);
  return read(VIRTIO_MMIO_QUEUE_NUM_MAX);
}

bool Device::queue_ready(unsigned queue) const {
  write(VIRTIO_MMIO_QUEUE_SEL, queue);
  return read(VIRTIO_MMIO_QUEUE_READY) != 0;
}

void Device::write_queue(unsigned queue, uint32_t size, const RingAddresses& rings) const {
  write(VIRTIO_MMIO_QUEUE_SEL, queue);
  write(VIRTIO_MMIO_QUEUE_NUM, size);
  write(VIRTIO_MMIO_QUEUE_DESC_LOW, static_cast<uint32_t>(rings.descriptors));
  write(VIRTIO_MMIO_QUEUE_DESC_HIGH, static_cast<uint32_t>(rings.descriptors >> 32));
  write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, static_cast<uint32_t>(rings.available));
  write(VIRTIO_MMIO_QUEUE_AVAIL_HIGH, static_cast<uint32_t>(rings.available >> 32));
  write(VIRTIO_MMIO_QUEUE_USED_LOW, static_cast<uint32_t>(rings.used));
  write(VIRTIO_MMIO_QUEUE_USED_HIGH, static_cast<uint32_t>(rings.used >> 32));
  write(VIRTIO_MMIO_QUEUE_READY, 1);
}

uint32_t Device::queue_interrupts() const {
  return __atomic_load_n(&counters[slot_].queue, __ATOMIC_RELAXED);
}
uint32_t Device::config_interrupts() const {
  return __atomic_load_n(&counters[slot_].config, __ATOMIC_RELAXED);
}

bool Device::wait_for_queue_interrupt(uint32_t before) const {
  return wait_until([=, this] { return queue_interrupts() != before; });
}

bool Device::wait_for_needs_reset() const {
  return wait_until([this] { return (status() & VIRTIO_CONFIG_S_NEEDS_RESET) != 0; });
}

}  // namespace payload
