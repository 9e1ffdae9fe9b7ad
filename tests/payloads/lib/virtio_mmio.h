// SPDX-License-Identifier: Apache-2.0
// The driver's side of the transport (virtio 1.2 §4.2).
#pragma once

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include <cstdint>

namespace payload {

constexpr uint64_t feature(unsigned bit) { return uint64_t{1} << bit; }
constexpr uint64_t kVersion1 = feature(VIRTIO_F_VERSION_1);

struct RingAddresses {
  uint64_t descriptors = 0;
  uint64_t available = 0;
  uint64_t used = 0;
};

class Device {
 public:
  // The one behind the first `skip` with this device id. Where things are comes from the command
  // line (mmio=, stride=, slots=, gsi=) or from layout.h. Routes its interrupt.
  static bool find(uint32_t device_id, Device& found, unsigned skip = 0);

  uint32_t read(uint32_t register_offset) const;
  void write(uint32_t register_offset, uint32_t value) const;
  uint64_t config_address() const { return base_ + VIRTIO_MMIO_CONFIG; }
  uint8_t config8(uint32_t offset) const;
  uint16_t config16(uint32_t offset) const;
  uint32_t config32(uint32_t offset) const;
  // Reads both halves between two equal generations (§4.2.2.2).
  uint64_t config64(uint32_t offset) const;

  uint32_t status() const { return read(VIRTIO_MMIO_STATUS); }
  void add_status(uint32_t bits) const { write(VIRTIO_MMIO_STATUS, status() | bits); }
  // False when the status does not become 0.
  bool reset() const;
  uint64_t offered_features() const;
  void accept_features(uint64_t features) const;
  // reset, ACKNOWLEDGE, DRIVER, features, FEATURES_OK. Whether the device agrees.
  bool negotiate(uint64_t features) const;
  // Everything that it offers.
  bool negotiate() const { return negotiate(offered_features()); }
  void set_driver_ok() const { add_status(VIRTIO_CONFIG_S_DRIVER_OK); }

  uint32_t max_queue_size(unsigned queue) const;
  bool queue_ready(unsigned queue) const;
  void write_queue(unsigned queue, uint32_t size, const RingAddresses& rings) const;
  void notify(unsigned queue) const { write(VIRTIO_MMIO_QUEUE_NOTIFY, queue); }

  // Interrupts that said so since the start; acknowledged by the handler.
  uint32_t queue_interrupts() const;
  uint32_t config_interrupts() const;
  bool wait_for_queue_interrupt(uint32_t before) const;
  // Its interrupts go to the processor with this APIC id; at first, to 0.
  void route(uint32_t apic_id) const;
  // Waits for DEVICE_NEEDS_RESET.
  bool wait_for_needs_reset() const;

 private:
  void listen(unsigned slot);

  uint64_t base_ = 0;
  unsigned slot_ = 0;
};

}  // namespace payload
