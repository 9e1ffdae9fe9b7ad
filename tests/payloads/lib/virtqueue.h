// SPDX-License-Identifier: Apache-2.0
// The driver's side of a split virtqueue (virtio 1.2 §2.7), open enough to break every rule of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "tests/payloads/lib/virtio_mmio.h"

namespace payload {

constexpr uint16_t kNext = 1;      // VRING_DESC_F_NEXT
constexpr uint16_t kWrite = 2;     // VRING_DESC_F_WRITE
constexpr uint16_t kIndirect = 4;  // VRING_DESC_F_INDIRECT

struct Descriptor {
  uint64_t address;
  uint32_t size;
  uint16_t flags;
  uint16_t next;
};

struct UsedElement {
  uint32_t id;
  uint32_t written;
};

// A part of a chain, as the device sees it.
struct Buffer {
  uint64_t address;
  uint32_t size;
  uint16_t flags;
};
inline Buffer readable(const void* bytes, size_t size) {
  return {reinterpret_cast<uint64_t>(bytes), static_cast<uint32_t>(size), 0};
}
inline Buffer writable(void* bytes, size_t size) {
  return {reinterpret_cast<uint64_t>(bytes), static_cast<uint32_t>(size), kWrite};
}

class Virtqueue {
 public:
  static constexpr unsigned kSize = 16;

  // Empties the rings and hands them to `device`, which has agreed on its features.
  void set_up(const Device& device, unsigned index);
  // Empties the rings, no more.
  void clear(const Device& device, unsigned index);
  RingAddresses addresses() const;

  // Fills in descriptors behind one another; returns the head. The caller keeps less than kSize
  // descriptors in flight.
  uint16_t add(std::initializer_list<Buffer> parts);
  // Makes `head` available, without a kick.
  void publish(uint16_t head);
  void kick() const;
  // Waits for one more used buffer.
  bool wait_used(UsedElement& used);
  // All of it: add, publish, kick, wait.
  bool request(std::initializer_list<Buffer> parts, UsedElement& used);
  bool request(std::initializer_list<Buffer> parts);

  bool has_used() const;
  // Whether the device asks for kicks; without VIRTIO_F_EVENT_IDX.
  bool wants_kicks() const { return (used_.flags & 1) == 0; }
  void set_no_interrupt(bool none) { available_.flags = none ? 1 : 0; }
  // VIRTIO_F_EVENT_IDX: interrupt when the used index passes this.
  void set_used_event(uint16_t index) { available_.event = index; }

  Descriptor& descriptor(unsigned index) { return descriptors_[index]; }
  uint16_t available_index() const { return available_.index; }
  void set_available_index(uint16_t index);
  void set_available_slot(unsigned slot, uint16_t head) { available_.ring[slot] = head; }
  uint16_t used_index() const;

 private:
  struct Available {
    uint16_t flags;
    uint16_t index;
    uint16_t ring[kSize];
    uint16_t event;
  };
  struct Used {
    uint16_t flags;
    uint16_t index;
    UsedElement ring[kSize];
    uint16_t event;
  };

  alignas(16) Descriptor descriptors_[kSize];
  alignas(4) Available available_;
  alignas(4) Used used_;
  const Device* device_;
  unsigned index_;
  unsigned next_descriptor_;
  uint16_t seen_used_;
};

}  // namespace payload
