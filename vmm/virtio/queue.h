// SPDX-License-Identifier: Apache-2.0
// The device's side of a split virtqueue (virtio 1.2 §2.7). Everything in the rings is
// guest-controlled.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "vmm/memory/guest_memory.h"

namespace kiln::vmm {

// One request, copied out of the ring and checked: every range lies in guest memory and is not
// empty, readable parts come before writable ones, the chain is no longer than the queue, its bytes
// fit a u32. The descriptors were read once. A buffer over two adjacent regions is two ranges.
struct DescriptorChain {
  uint16_t head = 0;
  std::vector<GuestRange> readable;  // device reads (driver → device)
  std::vector<GuestRange> writable;  // device writes
  uint32_t readable_size = 0;        // bytes, the sum over `readable`
  uint32_t writable_size = 0;
};

// A chain that goes back to the driver.
struct UsedChain {
  uint16_t head = 0;
  uint32_t written = 0;  // bytes put into its writable part
};

struct QueueConfig {
  uint16_t size = 0;              // power of two, at most 32768
  uint64_t descriptor_table = 0;  // guest-physical addresses
  uint64_t available_ring = 0;
  uint64_t used_ring = 0;
  bool event_idx = false;  // VIRTIO_F_EVENT_IDX acked
  bool indirect = false;   // VIRTIO_F_INDIRECT_DESC acked
};

// Used by one thread at a time.
class Queue {
 public:
  // Fails when a ring is misaligned or not wholly inside guest memory. The used index continues
  // where the used ring says, so that a queue can be taken over half-way.
  static Result<std::unique_ptr<Queue>> create(std::shared_ptr<const GuestMemory> memory,
                                               const QueueConfig& config,
                                               uint16_t next_available = 0);

  // The next chain; nullopt when there is none. An error is a broken driver, and permanent until
  // reset.
  Result<std::optional<DescriptorChain>> pop();
  // The same without allocating: overwrites `chain`, whose vectors keep their capacity. False when
  // there is none; `chain` is then unspecified.
  Result<bool> pop(DescriptorChain& chain);
  // Takes back the last `count` chains that were popped: they will be popped again. Not after one
  // of them was pushed.
  void undo_pop(unsigned count = 1) {
    next_available_ = static_cast<uint16_t>(next_available_ - count);
  }
  // Whether pop() would find something. Cheap; for polling.
  bool has_available();
  // Gives a chain back; `written`: bytes put into its writable part.
  Result<void> push_used(uint16_t head, uint32_t written);
  // The same for several that the driver must find all at once: one packet in merged buffers.
  Result<void> push_used(std::span<const UsedChain> chains);
  // Whether the driver wants an interrupt for what was pushed since the last call (§2.7.7). Call
  // after pushing.
  bool needs_interrupt();
  // Asks the driver to kick, or not to. After enabling, check again with pop(): a buffer may have
  // come in between.
  void set_notification(bool enabled);

  uint16_t size() const { return config_.size; }
  uint16_t next_available() const { return next_available_; }  // for GET_VRING_BASE
  bool broken() const { return broken_; }

 private:
  struct Cursor;

  Queue(std::shared_ptr<const GuestMemory> memory, const QueueConfig& config,
        uint16_t next_available);
  Result<bool> refresh_available();
  Result<void> walk(const GuestWindow& table, uint16_t first, bool is_indirect, Cursor& cursor);
  Result<void> walk_indirect(uint64_t address, uint32_t bytes, Cursor& cursor);
  Result<void> add_buffer(uint64_t address, uint32_t size, bool writable, Cursor& cursor);
  tl::unexpected<Error> break_ring(const char* why);

  std::shared_ptr<const GuestMemory> memory_;
  QueueConfig config_;
  GuestWindow descriptors_;
  GuestWindow available_;
  GuestWindow used_;
  uint16_t next_available_;
  uint16_t known_available_;  // the driver's index as last read
  uint16_t next_used_ = 0;
  uint16_t signalled_used_ = 0;
  bool signalled_valid_ = false;
  bool pushed_ = false;  // since the last needs_interrupt()
  bool broken_ = false;
};

}  // namespace kiln::vmm
