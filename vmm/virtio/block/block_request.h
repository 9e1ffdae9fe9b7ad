// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/virtio_blk.h>

#include <cstdint>
#include <vector>

#include "vmm/memory/guest_memory.h"
#include "vmm/virtio/block/block_file.h"
#include "vmm/virtio/queue.h"

namespace kiln::vmm {

// What a request may ask for; the same is in the configuration space.
struct BlockLimits {
  // virtio 1.2 §5.2.4: a request has at most seg_max buffers of size_max bytes, so no more than
  // 31.75 MiB of data. With the header and the status that is a queue's length.
  static constexpr uint16_t kQueueSize = 256;
  static constexpr uint32_t kSegMax = kQueueSize - 2;
  static constexpr uint32_t kSizeMax = 128U << 10;
  static constexpr uint32_t kMaxTransfer = kSegMax * kSizeMax;
  static constexpr uint32_t kMaxDiscardSegments = 16;
  static constexpr uint32_t kMaxDiscardSectors = (1U << 30) / BlockFile::kSectorSize;
  // Small: where a file system cannot zero ranges, the zeroes are written.
  static constexpr uint32_t kMaxZeroesSegments = 1;
  static constexpr uint32_t kMaxZeroesSectors = (32U << 20) / BlockFile::kSectorSize;

  uint64_t capacity = 0;  // bytes
  bool read_only = false;
};

// One request of virtio 1.2 §5.2.6, from its chain to its status. Copied out of the guest's memory
// and checked by parse(); what then touches that memory is the kernel, by iovecs. The work is done
// in steps, each one a system call: next() says which, advance() takes its result.
class BlockRequest {
 public:
  enum class Operation : uint8_t { kNone, kRead, kWrite, kFlush, kDiscard, kWriteZeroes, kGetId };

  // Overwrites all; vectors keep their capacity. `write_through`: what is written must be stable
  // when the request is complete. A refused request is kNone with its status. An error: there is no
  // room for a status, the driver is broken.
  Result<void> parse(const GuestMemory& memory, const DescriptorChain& chain,
                     const BlockLimits& limits, bool write_through);

  // The next step of anything but kNone and kGetId. Valid until advance().
  const BlockIo& next(const BlockFile& file);
  // The result of that step: bytes moved, 0 or -errno. True: the request is complete, see status().
  bool advance(int64_t result);
  // The device has put `bytes` into the chain by itself (kGetId).
  void set_written(uint32_t bytes) { done_ = bytes; }
  // Why it failed: an errno, EIO for a file that has become shorter; 0: it was refused by parse().
  int error() const { return error_; }

  uint16_t head() const { return head_; }
  Operation operation() const { return operation_; }
  uint8_t status() const { return status_; }
  uint64_t status_address() const { return status_address_; }
  uint64_t offset() const { return offset_; }  // bytes, of kRead and kWrite
  uint32_t size() const { return size_; }      // bytes of data in the chain, without the status
  // Bytes that count for a bandwidth limit.
  uint64_t cost() const { return cost_; }
  // Bytes of data that went between the file and the chain.
  uint32_t transferred() const { return done_; }
  // For the used ring, virtio 1.2 §2.7.8.2: bytes that are written from the start of the writable
  // part on. The status, which is last, counts only when there is no gap before it.
  uint32_t used_length() const {
    const uint32_t filled = operation_ == Operation::kWrite ? 0 : done_;
    return filled == writable_ ? writable_ + 1 : filled;
  }
  const BlockIo& current() const { return io_; }

 private:
  struct Segment {
    uint64_t offset = 0;  // bytes
    uint64_t size = 0;
    bool unmap = false;
  };

  Result<void> parse_body(const GuestMemory& memory, const DescriptorChain& chain,
                          const BlockLimits& limits, const virtio_blk_outhdr& header);
  Result<void> parse_transfer(const GuestMemory& memory, const DescriptorChain& chain,
                              const BlockLimits& limits, uint64_t sector);
  Result<void> parse_segments(const GuestMemory& memory, const DescriptorChain& chain,
                              const BlockLimits& limits);
  uint8_t add_segment(const virtio_blk_discard_write_zeroes& raw, const BlockLimits& limits);
  void refuse(uint8_t status);
  bool fail(int64_t result);
  bool advance_transfer(int64_t result);
  bool advance_segment(int64_t result);
  void next_zeroes(const BlockFile& file, const Segment& segment);

  uint16_t head_ = 0;
  Operation operation_ = Operation::kNone;
  uint8_t status_ = VIRTIO_BLK_S_OK;
  bool write_through_ = false;
  int error_ = 0;
  uint64_t status_address_ = 0;
  uint64_t offset_ = 0;
  uint64_t cost_ = 0;
  uint32_t writable_ = 0;  // bytes of the chain's writable part, without the status
  uint32_t size_ = 0;
  uint32_t done_ = 0;  // bytes of a transfer
  size_t buffer_ = 0;  // the first of buffers_ that is not done
  std::vector<iovec> buffers_;
  size_t segment_ = 0;
  uint64_t segment_done_ = 0;  // bytes of it
  std::vector<Segment> segments_;
  BlockIo io_;
};

}  // namespace kiln::vmm
