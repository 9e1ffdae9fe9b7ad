// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/io_uring.h>
#include <sys/uio.h>

#include <cstdint>
#include <span>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::vmm {

// One system call's worth of work on a disk's file.
struct BlockIo {
  enum class Kind : uint8_t {
    kRead,
    kWrite,
    kSync,      // fdatasync
    kAllocate,  // fallocate: holes and zeroes
    kDiscard,   // a block device's own
  };
  Kind kind = Kind::kSync;
  int flags = 0;                   // RWF_* or FALLOC_FL_*
  std::span<const iovec> buffers;  // of kRead and kWrite; live until it is done
  uint64_t offset = 0;             // bytes
  uint64_t size = 0;               // bytes, of kAllocate and kDiscard
};

// The raw image file or block device behind a disk, and what it can do. Trusted; what is asked of
// it was checked before.
class BlockFile {
 public:
  static constexpr uint32_t kSectorSize = 512;

  // Fails for what is neither, for a file that is open in another way than `read_only` says, and
  // for O_APPEND and O_DIRECT. O_NONBLOCK is taken off.
  static Result<BlockFile> open(UniqueFd fd, bool read_only);

  uint64_t capacity() const { return capacity_; }  // bytes, whole sectors
  bool is_block_device() const { return is_block_device_; }
  uint32_t logical_block() const { return logical_block_; }    // bytes
  uint32_t physical_block() const { return physical_block_; }  // bytes
  // In logical blocks; 0: nothing is known.
  uint32_t alignment_offset() const { return alignment_offset_; }
  uint32_t minimum_io() const { return minimum_io_; }
  uint32_t optimal_io() const { return optimal_io_; }

  // What one may try; false once the file has said no.
  bool can_punch_holes() const { return can_punch_holes_; }
  bool can_zero_ranges() const { return can_zero_ranges_; }
  bool can_discard() const { return is_block_device_ || can_punch_holes_; }
  BlockIo discard(uint64_t offset, uint64_t size) const;

  // Does it now: bytes moved or 0, or -errno. The file's EOPNOTSUPP is remembered.
  int64_t run(const BlockIo& io);
  // The same through an io_uring: fills `entry` but for user_data. False where only run() can do
  // it.
  bool prepare(const BlockIo& io, io_uring_sqe& entry) const;
  // For the result of an entry: remembers as run() does. What must be done by run() after all:
  // true.
  bool must_run(const BlockIo& io, int64_t result);

 private:
  explicit BlockFile(UniqueFd fd) : fd_(std::move(fd)) {}
  Result<void> look_at_file();
  Result<void> look_at_device();
  void note(const BlockIo& io, int64_t result);

  UniqueFd fd_;
  uint64_t capacity_ = 0;
  bool is_block_device_ = false;
  uint32_t logical_block_ = kSectorSize;
  uint32_t physical_block_ = kSectorSize;
  uint32_t alignment_offset_ = 0;
  uint32_t minimum_io_ = 0;
  uint32_t optimal_io_ = 0;
  bool can_punch_holes_ = true;
  bool can_zero_ranges_ = true;
  bool can_queue_discards_ = true;
};

}  // namespace kiln::vmm
