// SPDX-License-Identifier: Apache-2.0
// The guest's side of a virtqueue, for tests and fuzzers of devices: lays out rings and descriptor
// chains in memory of its own, well-formed or not.
#pragma once

#define VIRTIO_RING_NO_LEGACY
#include <linux/virtio_ring.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/memory/guest_memory.h"
#include "vmm/virtio/queue.h"

namespace kiln::vmm {

// Guest memory from address 0 on, shared by the drivers of a device's queues.
class FakeGuest {
 public:
  static constexpr uint64_t kSize = 4U << 20;

  FakeGuest() : memory_(std::make_shared<GuestMemory>()) {
    if (!memory_->map_anonymous(0, kSize)) abort();
  }
  // Memory that another process may map: `file` has at least kSize bytes.
  explicit FakeGuest(const UniqueFd& file) : memory_(std::make_shared<GuestMemory>()) {
    if (!memory_->map_region(file, 0, 0, kSize, 0)) abort();
  }
  const std::shared_ptr<GuestMemory>& memory() const { return memory_; }
  // Page-aligned room; never given back.
  uint64_t allocate(uint64_t size) {
    const uint64_t at = next_;
    next_ += (size + 4095) & ~uint64_t{4095};
    if (next_ > kSize) abort();
    return at;
  }
  template <typename T>
  void put(uint64_t address, const T& value) {
    if (!memory_->write_object(address, value)) abort();
  }
  template <typename T>
  T get(uint64_t address) const {
    const auto value = memory_->read_object<T>(address);
    if (!value) abort();
    return *value;
  }
  void put_text(uint64_t address, std::string_view text) {
    if (!memory_->write(address, std::as_bytes(std::span(text.data(), text.size())))) abort();
  }
  std::string get_text(uint64_t address, size_t size) const {
    std::string text(size, '\0');
    if (!memory_->read(address, std::as_writable_bytes(std::span(text.data(), size)))) abort();
    return text;
  }

 private:
  std::shared_ptr<GuestMemory> memory_;
  uint64_t next_ = 4096;  // nothing at address 0
};

// One buffer of a chain.
struct FakeBuffer {
  uint64_t address = 0;
  uint32_t size = 0;
  bool writable = false;
};

class FakeDriver {
 public:
  explicit FakeDriver(FakeGuest& guest, uint16_t size, bool event_idx = false) : guest_(guest) {
    config_.size = size;
    config_.event_idx = event_idx;
    config_.indirect = true;
    config_.descriptor_table = guest.allocate(size * sizeof(vring_desc));
    config_.available_ring = guest.allocate(6 + 2ULL * size);
    config_.used_ring = guest.allocate(6 + sizeof(vring_used_elem) * size);
  }

  const QueueConfig& config() const { return config_; }
  std::unique_ptr<Queue> queue() const {
    auto queue = Queue::create(guest_.memory(), config_);
    if (!queue) abort();
    return std::move(*queue);
  }

  void set_descriptor(uint16_t index, const vring_desc& descriptor) {
    guest_.put(config_.descriptor_table + index * sizeof descriptor, descriptor);
  }
  // Makes whatever begins at `head` available.
  void publish(uint16_t head) {
    guest_.put(config_.available_ring + 4 + 2ULL * (available_ % config_.size), head);
    set_available_index(++available_);
  }
  void set_available_index(uint16_t index) {
    available_ = index;
    guest_.put(config_.available_ring + 2, index);
  }
  // A well-formed chain in the next free descriptors; its head.
  uint16_t add_chain(const std::vector<FakeBuffer>& buffers) {
    const uint16_t head = next_descriptor_;
    for (size_t i = 0; i < buffers.size(); ++i) {
      const bool last = i + 1 == buffers.size();
      const uint16_t at = next_descriptor_;
      next_descriptor_ = static_cast<uint16_t>((next_descriptor_ + 1) % config_.size);
      vring_desc descriptor{};
      descriptor.addr = buffers[i].address;
      descriptor.len = buffers[i].size;
      descriptor.flags = static_cast<uint16_t>((last ? 0 : VRING_DESC_F_NEXT) |
                                               (buffers[i].writable ? VRING_DESC_F_WRITE : 0));
      descriptor.next = last ? 0 : next_descriptor_;
      set_descriptor(at, descriptor);
    }
    publish(head);
    return head;
  }
  // What the device has given back since the last call.
  std::optional<vring_used_elem> next_used() {
    const auto index = guest_.get<uint16_t>(config_.used_ring + 2);
    if (index == used_) return std::nullopt;
    const uint64_t slot = used_++ % config_.size;
    return guest_.get<vring_used_elem>(config_.used_ring + 4 + slot * sizeof(vring_used_elem));
  }

 private:
  FakeGuest& guest_;
  QueueConfig config_;
  uint16_t available_ = 0;
  uint16_t used_ = 0;
  uint16_t next_descriptor_ = 0;
};

}  // namespace kiln::vmm
