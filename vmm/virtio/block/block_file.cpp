// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/block/block_file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/file.h"

namespace kiln::vmm {
namespace {

// <linux/blkdev.h> of Linux 6.12 as an ioctl number: a block device's discard by
// IORING_OP_URING_CMD.
constexpr uint32_t kUringDiscard = _IO(0x12, 0);
constexpr uint32_t kMostBlock = 64U << 10;

Result<void> check_flags(int fd, bool read_only) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0) return sys_error("look at a disk's file");
  const int access = flags & O_ACCMODE;
  if ((flags & O_PATH) != 0 || access == O_WRONLY || (!read_only && access != O_RDWR))
    return invalid_argument(read_only
                                ? "a disk's file is not open for reading"
                                : "a writable disk's file is not open for reading and writing");
  // Appending ignores where a write should go; direct I/O wants buffers aligned as no guest
  // promises.
  if ((flags & (O_APPEND | O_DIRECT)) != 0)
    return invalid_argument("a disk's file is open with O_APPEND or O_DIRECT");
  // With it an io_uring fails what would have to wait for the disk.
  if ((flags & O_NONBLOCK) != 0 && fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) != 0)
    return sys_error("change a disk's file to blocking");
  return {};
}

bool sensible_block(uint32_t size) {
  return size >= BlockFile::kSectorSize && size <= kMostBlock && (size & (size - 1)) == 0;
}

int64_t result_of(int64_t returned) { return returned < 0 ? -int64_t{errno} : returned; }

}  // namespace

Result<BlockFile> BlockFile::open(UniqueFd fd, bool read_only) {
  struct stat status {};
  if (fstat(fd.get(), &status) != 0) return sys_error("look at a disk's file");
  if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
    return invalid_argument("a disk is neither a regular file nor a block device");
  TRY(check_flags(fd.get(), read_only));
  BlockFile file(std::move(fd));
  file.is_block_device_ = S_ISBLK(status.st_mode);
  TRY(file.is_block_device_ ? file.look_at_device() : file.look_at_file());
  file.capacity_ -= file.capacity_ % kSectorSize;
  if (file.capacity_ == 0) return invalid_argument("a disk is smaller than a sector");
  return file;
}

Result<void> BlockFile::look_at_file() {
  struct stat status {};
  if (fstat(fd_.get(), &status) != 0) return sys_error("look at a disk's file");
  capacity_ = static_cast<uint64_t>(status.st_size);
  // Sectors stay 512 bytes, as an image may be partitioned in them; what the file system likes is
  // the size below which a write costs a read.
  const auto liked = static_cast<uint64_t>(status.st_blksize);
  if (liked <= 4096 && sensible_block(static_cast<uint32_t>(liked)))
    physical_block_ = static_cast<uint32_t>(liked);
  // A hole behind the end changes nothing and tells whether holes are there at all.
  const auto end = static_cast<off_t>(capacity_);
  if (capacity_ > INT64_MAX - kMostBlock ||
      fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, end, kMostBlock) != 0)
    can_punch_holes_ = false;
  return {};
}

Result<void> BlockFile::look_at_device() {
  const int fd = fd_.get();
  if (ioctl(fd, BLKGETSIZE64, &capacity_) != 0) return sys_error("ask a block device for its size");
  int logical = 0;
  unsigned physical = 0;
  if (ioctl(fd, BLKSSZGET, &logical) == 0 && sensible_block(static_cast<uint32_t>(logical)))
    logical_block_ = static_cast<uint32_t>(logical);
  physical_block_ = logical_block_;
  if (ioctl(fd, BLKPBSZGET, &physical) == 0 && sensible_block(physical))
    physical_block_ = std::max(physical, logical_block_);
  int offset = 0;  // -1: misaligned in a way that has no number
  if (ioctl(fd, BLKALIGNOFF, &offset) == 0 && offset > 0)
    alignment_offset_ = static_cast<uint32_t>(offset) / logical_block_;
  unsigned bytes = 0;
  if (ioctl(fd, BLKIOMIN, &bytes) == 0) minimum_io_ = bytes / logical_block_;
  bytes = 0;
  if (ioctl(fd, BLKIOOPT, &bytes) == 0) optimal_io_ = bytes / logical_block_;
  return {};
}

BlockIo BlockFile::discard(uint64_t offset, uint64_t size) const {
  if (is_block_device_) return {BlockIo::Kind::kDiscard, 0, {}, offset, size};
  return {BlockIo::Kind::kAllocate, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, {}, offset, size};
}

int64_t BlockFile::run(const BlockIo& io) {
  const int fd = fd_.get();
  const auto at = static_cast<off_t>(io.offset);
  const auto count = static_cast<int>(io.buffers.size());
  int64_t result = -EINVAL;
  switch (io.kind) {
    case BlockIo::Kind::kRead:
      result = result_of(
          retry_eintr([&] { return preadv2(fd, io.buffers.data(), count, at, io.flags); }));
      break;
    case BlockIo::Kind::kWrite:
      result = result_of(
          retry_eintr([&] { return pwritev2(fd, io.buffers.data(), count, at, io.flags); }));
      break;
    case BlockIo::Kind::kSync:
      result = result_of(retry_eintr([&] { return fdatasync(fd); }));
      break;
    case BlockIo::Kind::kAllocate:
      result = result_of(
          retry_eintr([&] { return fallocate(fd, io.flags, at, static_cast<off_t>(io.size)); }));
      break;
    case BlockIo::Kind::kDiscard: {
      std::array<uint64_t, 2> range = {io.offset, io.size};
      result = result_of(retry_eintr([&] { return ioctl(fd, BLKDISCARD, range.data()); }));
      break;
    }
  }
  note(io, result);
  return result;
}

bool BlockFile::prepare(const BlockIo& io, io_uring_sqe& entry) const {
  entry.fd = fd_.get();
  entry.off = io.offset;
  switch (io.kind) {
    case BlockIo::Kind::kRead:
    case BlockIo::Kind::kWrite:
      entry.opcode = io.kind == BlockIo::Kind::kRead ? IORING_OP_READV : IORING_OP_WRITEV;
      entry.addr = reinterpret_cast<uint64_t>(io.buffers.data());
      entry.len = static_cast<uint32_t>(io.buffers.size());
      entry.rw_flags = io.flags;
      return true;
    case BlockIo::Kind::kSync:
      entry.opcode = IORING_OP_FSYNC;
      entry.off = 0;  // and a length of 0: the whole file
      entry.fsync_flags = IORING_FSYNC_DATASYNC;
      return true;
    case BlockIo::Kind::kAllocate:
      // Its length is in `addr`, its mode in `len`.
      entry.opcode = IORING_OP_FALLOCATE;
      entry.addr = io.size;
      entry.len = static_cast<uint32_t>(io.flags);
      return true;
    case BlockIo::Kind::kDiscard:
      if (!can_queue_discards_) return false;
      entry.opcode = IORING_OP_URING_CMD;
      entry.off = 0;
      entry.cmd_op = kUringDiscard;
      entry.addr = io.offset;
      entry.addr3 = io.size;
      return true;
  }
  return false;
}

bool BlockFile::must_run(const BlockIo& io, int64_t result) {
  // No worker could be started, or the memory for one was missing.
  if (result == -EAGAIN || result == -ECANCELED || result == -EINTR || result == -ENOMEM)
    return true;
  if (io.kind == BlockIo::Kind::kDiscard && (result == -EOPNOTSUPP || result == -EINVAL)) {
    // Before Linux 6.12 a block device had no such command; or the device itself does not discard,
    // which the ioctl will tell.
    can_queue_discards_ = result == -EINVAL && can_queue_discards_;
    return true;
  }
  note(io, result);
  return false;
}

void BlockFile::note(const BlockIo& io, int64_t result) {
  if (io.kind != BlockIo::Kind::kAllocate || result != -EOPNOTSUPP) return;
  if ((io.flags & FALLOC_FL_PUNCH_HOLE) != 0) can_punch_holes_ = false;
  if ((io.flags & FALLOC_FL_ZERO_RANGE) != 0) can_zero_ranges_ = false;
}

}  // namespace kiln::vmm
