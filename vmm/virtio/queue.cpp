// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/queue.h"

// Its inline functions for the legacy layout are not C++.
#define VIRTIO_RING_NO_LEGACY
#include <linux/virtio_ring.h>

#include <atomic>

#include "base/format.h"

namespace kiln::vmm {
namespace {

constexpr uint32_t kMaxQueueSize = 32768;  // virtio 1.2 §2.7
constexpr size_t kAvailableFlags = 0;
constexpr size_t kAvailableIndex = 2;
constexpr size_t kAvailableRing = 4;
constexpr size_t kUsedFlags = 0;
constexpr size_t kUsedIndex = 2;
constexpr size_t kUsedRing = 4;

struct Descriptor {
  uint64_t address;
  uint32_t size;
  uint16_t flags;
  uint16_t next;
};
static_assert(sizeof(Descriptor) == sizeof(vring_desc));

struct UsedElement {
  uint32_t id;
  uint32_t written;
};

// Of a queue, in the guest's memory.
struct Part {
  uint64_t begin;
  uint64_t size;
};

Result<void> check(const QueueConfig& config) {
  if (config.size == 0 || config.size > kMaxQueueSize || (config.size & (config.size - 1)) != 0)
    return invalid_argument(format("queue size {} is not a power of two", config.size));
  // virtio 1.2 §2.7: alignments of the three parts.
  if (config.descriptor_table % VRING_DESC_ALIGN_SIZE != 0 ||
      config.available_ring % VRING_AVAIL_ALIGN_SIZE != 0 ||
      config.used_ring % VRING_USED_ALIGN_SIZE != 0)
    return invalid_argument("queue is misaligned");
  // A used ring that lies on the available ring would feed the device with what it gives back, for
  // ever.
  const uint64_t size = config.size;
  const Part parts[] = {{config.descriptor_table, size * sizeof(Descriptor)},
                        {config.available_ring, kAvailableRing + 2 * size},
                        {config.used_ring, kUsedRing + size * sizeof(UsedElement)}};
  for (const Part& part : parts) {
    for (const Part& other : parts) {
      if (&part != &other && part.begin - other.begin < other.size)
        return invalid_argument("the parts of a queue overlap");
    }
  }
  return {};
}

}  // namespace

// Where a walk over one chain has got to.
struct Queue::Cursor {
  DescriptorChain& chain;
  uint32_t count = 0;  // descriptors seen, in the table and in an indirect one
  uint64_t bytes = 0;
};

Queue::Queue(std::shared_ptr<const GuestMemory> memory, const QueueConfig& config,
             uint16_t next_available)
    : memory_(std::move(memory)),
      config_(config),
      next_available_(next_available),
      known_available_(next_available) {}

Result<std::unique_ptr<Queue>> Queue::create(std::shared_ptr<const GuestMemory> memory,
                                             const QueueConfig& config, uint16_t next_available) {
  TRY(check(config));
  std::unique_ptr<Queue> queue(new Queue(std::move(memory), config, next_available));
  const uint64_t size = config.size;
  // §2.7.6, §2.7.8: each ring ends with the other side's event index, which is there whether or not
  // VIRTIO_F_EVENT_IDX was negotiated; only then is it required to be in memory.
  const uint64_t event = config.event_idx ? 2 : 0;
  queue->descriptors_ =
      TRY(wrap(queue->memory_->window(config.descriptor_table, size * sizeof(Descriptor)),
               "descriptor table"));
  queue->available_ =
      TRY(wrap(queue->memory_->window(config.available_ring, kAvailableRing + 2 * size + event),
               "available ring"));
  queue->used_ = TRY(
      wrap(queue->memory_->window(config.used_ring, kUsedRing + size * sizeof(UsedElement) + event),
           "used ring"));
  queue->next_used_ = queue->used_.load_acquire_u16(kUsedIndex);
  queue->set_notification(true);
  return queue;
}

tl::unexpected<Error> Queue::break_ring(const char* why) {
  broken_ = true;
  return make_error(ErrorKind::kInvalidArgument, format("broken virtqueue: {}", why));
}

// Reads the driver's index. False when nothing is there.
Result<bool> Queue::refresh_available() {
  known_available_ = available_.load_acquire_u16(kAvailableIndex);
  const auto ahead = static_cast<uint16_t>(known_available_ - next_available_);
  if (ahead > config_.size) return break_ring("available index is ahead by more than the queue");
  return ahead != 0;
}

bool Queue::has_available() {
  if (broken_) return false;
  return available_.load_acquire_u16(kAvailableIndex) != next_available_;
}

Result<std::optional<DescriptorChain>> Queue::pop() {
  DescriptorChain chain;
  if (!TRY(pop(chain))) return std::nullopt;
  return chain;
}

Result<bool> Queue::pop(DescriptorChain& chain) {
  if (broken_) return break_ring("needs a reset");
  if (known_available_ == next_available_ && !TRY(refresh_available())) return false;

  const size_t slot = next_available_ & (config_.size - 1U);
  const uint16_t head = available_.load_relaxed_u16(kAvailableRing + 2 * slot);
  if (head >= config_.size) return break_ring("head is not in the descriptor table");
  chain.head = head;
  chain.readable.clear();
  chain.writable.clear();
  chain.readable_size = 0;
  chain.writable_size = 0;
  Cursor cursor{chain};
  TRY(walk(descriptors_, head, false, cursor));
  ++next_available_;
  return true;
}

// Follows one table from `first`. In an indirect table no other indirect one may be named, so the
// recursion is one level deep.
Result<void> Queue::walk(const GuestWindow& table, uint16_t first, bool is_indirect,
                         Cursor& cursor) {
  const size_t table_size = table.size() / sizeof(Descriptor);
  size_t index = first;
  while (true) {
    if (index >= table_size) return break_ring("descriptor is not in its table");
    const auto descriptor = table.load<Descriptor>(index * sizeof(Descriptor));
    if ((descriptor.flags & VRING_DESC_F_INDIRECT) != 0) {
      if (is_indirect) return break_ring("indirect descriptor in an indirect table");
      if (!config_.indirect) return break_ring("indirect descriptors were not negotiated");
      // §2.7.5.3.1: not both INDIRECT and NEXT. §2.7.5.3.2: WRITE is ignored here.
      if ((descriptor.flags & VRING_DESC_F_NEXT) != 0)
        return break_ring("indirect descriptor has a successor");
      return walk_indirect(descriptor.address, descriptor.size, cursor);
    }
    // §2.7.5.3.1: a chain is no longer than the queue, which also ends every loop.
    if (++cursor.count > config_.size) return break_ring("chain is longer than the queue");
    TRY(add_buffer(descriptor.address, descriptor.size,
                   (descriptor.flags & VRING_DESC_F_WRITE) != 0, cursor));
    if ((descriptor.flags & VRING_DESC_F_NEXT) == 0) return {};
    index = descriptor.next;
  }
}

Result<void> Queue::walk_indirect(uint64_t address, uint32_t bytes, Cursor& cursor) {
  if (bytes == 0 || bytes % sizeof(Descriptor) != 0)
    return break_ring("indirect table's size is not a multiple of 16");
  auto table = memory_->window(address, bytes);
  if (!table) return break_ring("indirect table is outside memory");
  return walk(*table, 0, true, cursor);
}

Result<void> Queue::add_buffer(uint64_t address, uint32_t size, bool writable, Cursor& cursor) {
  DescriptorChain& chain = cursor.chain;
  // §2.7.4.2: device-writable parts come after all device-readable ones.
  if (!writable && !chain.writable.empty()) return break_ring("readable after writable");
  // §2.7.4.2: not longer than 2^32 bytes in total; one less, so that sizes are a u32.
  cursor.bytes += size;
  if (cursor.bytes > UINT32_MAX) return break_ring("chain has more than 2^32 bytes");
  auto& ranges = writable ? chain.writable : chain.readable;
  (writable ? chain.writable_size : chain.readable_size) += size;
  while (size != 0) {
    const auto piece = static_cast<uint32_t>(memory_->contiguous(address, size));
    if (piece == 0) return break_ring("buffer is outside memory");
    ranges.push_back(GuestRange{address, piece});
    address += piece;
    size -= piece;
  }
  return {};
}

Result<void> Queue::push_used(uint16_t head, uint32_t written) {
  const UsedChain chain{head, written};
  return push_used(std::span(&chain, 1));
}

Result<void> Queue::push_used(std::span<const UsedChain> chains) {
  if (broken_) return break_ring("needs a reset");
  for (const UsedChain& chain : chains) {
    if (chain.head >= config_.size)
      return make_error(ErrorKind::kInternal,
                        format("push of head {} into a queue of {}", chain.head, config_.size));
  }
  for (const UsedChain& chain : chains) {
    const size_t slot = next_used_ & (config_.size - 1U);
    used_.store(kUsedRing + slot * sizeof(UsedElement), UsedElement{chain.head, chain.written});
    ++next_used_;
    pushed_ = true;
    // 2^16 pushes without a call of needs_interrupt() would look like none.
    if (next_used_ == signalled_used_) signalled_valid_ = false;
  }
  used_.store_release_u16(kUsedIndex, next_used_);
  return {};
}

bool Queue::needs_interrupt() {
  if (broken_ || !pushed_) return false;
  pushed_ = false;
  const uint16_t before = signalled_used_;
  const bool valid = signalled_valid_;
  signalled_used_ = next_used_;
  signalled_valid_ = true;
  // §2.7.7.2: the used index must be visible before we look at what the driver wants.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!config_.event_idx)
    return (available_.load_relaxed_u16(kAvailableFlags) & VRING_AVAIL_F_NO_INTERRUPT) == 0;
  if (!valid) return true;
  const uint16_t wanted = available_.load_relaxed_u16(kAvailableRing + 2U * config_.size);
  return vring_need_event(wanted, next_used_, before) != 0;
}

void Queue::set_notification(bool enabled) {
  if (broken_) return;
  if (config_.event_idx) {
    // §2.7.10.1: a stale event index is how one asks not to be kicked.
    if (enabled)
      used_.store_release_u16(kUsedRing + config_.size * sizeof(UsedElement), next_available_);
  } else {
    used_.store_release_u16(kUsedFlags, enabled ? 0 : VRING_USED_F_NO_NOTIFY);
  }
  // The wish must be visible before the caller looks for buffers again.
  if (enabled) std::atomic_thread_fence(std::memory_order_seq_cst);
}

}  // namespace kiln::vmm
