// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/block/block_request.h"

#include <linux/falloc.h>
#include <linux/fs.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <span>

namespace kiln::vmm {
namespace {

constexpr size_t kMostBuffers = 1024;  // UIO_MAXIOV
constexpr size_t kZeroes = 64U << 10;
constexpr size_t kZeroBuffers = 16;

// A MiB of zeroes, out of one small buffer. Never written to.
const std::array<iovec, kZeroBuffers>& zero_buffers() {
  alignas(4096) static std::array<std::byte, kZeroes> zeroes;
  static const auto buffers = [] {
    std::array<iovec, kZeroBuffers> out{};
    for (iovec& buffer : out) buffer = {zeroes.data(), zeroes.size()};
    return out;
  }();
  return buffers;
}

}  // namespace

void BlockRequest::refuse(uint8_t status) {
  operation_ = Operation::kNone;
  status_ = status;
  cost_ = 0;
}

Result<void> BlockRequest::parse(const GuestMemory& memory, const DescriptorChain& chain,
                                 const BlockLimits& limits, bool write_through) {
  if (chain.writable_size == 0) return invalid_argument("a block request has no room for a status");
  head_ = chain.head;
  writable_ = chain.writable_size - 1;
  operation_ = Operation::kNone;
  status_ = VIRTIO_BLK_S_OK;
  write_through_ = write_through;
  error_ = 0;
  offset_ = cost_ = segment_done_ = 0;
  size_ = done_ = 0;
  buffer_ = segment_ = 0;
  buffers_.clear();
  segments_.clear();
  // The last writable byte.
  const GuestRange& last = chain.writable.back();
  status_address_ = last.address + last.size - 1;
  virtio_blk_outhdr header{};
  if (chain.readable_size < sizeof header) {
    refuse(VIRTIO_BLK_S_IOERR);
    return {};
  }
  TRY(memory.read_ranges(chain.readable, 0, std::as_writable_bytes(std::span(&header, 1))));
  return parse_body(memory, chain, limits, header);
}

// `header` is guest-controlled, a copy.
Result<void> BlockRequest::parse_body(const GuestMemory& memory, const DescriptorChain& chain,
                                      const BlockLimits& limits, const virtio_blk_outhdr& header) {
  const uint32_t readable = chain.readable_size - static_cast<uint32_t>(sizeof header);
  bool sane = true;
  switch (header.type) {
    case VIRTIO_BLK_T_IN:
      operation_ = Operation::kRead;
      size_ = writable_;
      sane = readable == 0;
      break;
    case VIRTIO_BLK_T_OUT:
      operation_ = Operation::kWrite;
      size_ = readable;
      sane = writable_ == 0;
      break;
    case VIRTIO_BLK_T_FLUSH:
      // §5.2.6.1: should have no data; what is there is not looked at.
      operation_ = Operation::kFlush;
      return {};
    case VIRTIO_BLK_T_GET_ID:
      // §5.2.6.1: 20 bytes.
      operation_ = Operation::kGetId;
      size_ = writable_;
      sane = readable == 0 && writable_ >= VIRTIO_BLK_ID_BYTES;
      break;
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
      operation_ =
          header.type == VIRTIO_BLK_T_DISCARD ? Operation::kDiscard : Operation::kWriteZeroes;
      size_ = readable;
      sane = writable_ == 0;
      break;
    default:
      refuse(VIRTIO_BLK_S_UNSUPP);
      return {};
  }
  // §5.2.6.2: a read-only device fails writes and writes nothing.
  const bool changes = operation_ == Operation::kWrite || operation_ == Operation::kDiscard ||
                       operation_ == Operation::kWriteZeroes;
  if (!sane || (changes && limits.read_only)) {
    refuse(VIRTIO_BLK_S_IOERR);
    return {};
  }
  if (operation_ == Operation::kRead || operation_ == Operation::kWrite)
    return parse_transfer(memory, chain, limits, header.sector);
  if (changes) return parse_segments(memory, chain, limits);
  return {};
}

Result<void> BlockRequest::parse_transfer(const GuestMemory& memory, const DescriptorChain& chain,
                                          const BlockLimits& limits, uint64_t sector) {
  const uint64_t sectors = limits.capacity / BlockFile::kSectorSize;
  // §5.2.6.1: whole sectors, none behind the end.
  if (size_ % BlockFile::kSectorSize != 0 || size_ > BlockLimits::kMaxTransfer ||
      sector > sectors || size_ / BlockFile::kSectorSize > sectors - sector) {
    refuse(VIRTIO_BLK_S_IOERR);
    return {};
  }
  offset_ = sector * BlockFile::kSectorSize;
  cost_ = size_;
  if (size_ == 0) {  // nothing to do, and done
    operation_ = Operation::kNone;
    return {};
  }
  if (operation_ == Operation::kRead)
    return memory.append_iovecs(chain.writable, 0, size_, buffers_);
  return memory.append_iovecs(chain.readable, sizeof(virtio_blk_outhdr), size_, buffers_);
}

Result<void> BlockRequest::parse_segments(const GuestMemory& memory, const DescriptorChain& chain,
                                          const BlockLimits& limits) {
  using Raw = virtio_blk_discard_write_zeroes;
  const uint32_t most = operation_ == Operation::kDiscard ? BlockLimits::kMaxDiscardSegments
                                                          : BlockLimits::kMaxZeroesSegments;
  if (size_ == 0 || size_ % sizeof(Raw) != 0 || size_ / sizeof(Raw) > most) {
    refuse(VIRTIO_BLK_S_IOERR);
    return {};
  }
  for (size_t i = 0; i < size_ / sizeof(Raw); ++i) {
    Raw raw{};
    TRY(memory.read_ranges(chain.readable, sizeof(virtio_blk_outhdr) + i * sizeof raw,
                           std::as_writable_bytes(std::span(&raw, 1))));
    if (const uint8_t status = add_segment(raw, limits); status != VIRTIO_BLK_S_OK) {
      refuse(status);
      return {};
    }
  }
  if (segments_.empty()) operation_ = Operation::kNone;
  return {};
}

// `raw` is guest-controlled, a copy.
uint8_t BlockRequest::add_segment(const virtio_blk_discard_write_zeroes& raw,
                                  const BlockLimits& limits) {
  const bool discard = operation_ == Operation::kDiscard;
  // §5.2.6.2: unknown flags are not supported, and UNMAP is one to a discard.
  const uint32_t known = discard ? 0 : uint32_t{VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP};
  if ((raw.flags & ~known) != 0) return VIRTIO_BLK_S_UNSUPP;
  const uint64_t sectors = limits.capacity / BlockFile::kSectorSize;
  if (raw.num_sectors >
          (discard ? BlockLimits::kMaxDiscardSectors : BlockLimits::kMaxZeroesSectors) ||
      raw.sector > sectors || raw.num_sectors > sectors - raw.sector)
    return VIRTIO_BLK_S_IOERR;
  if (raw.num_sectors == 0) return VIRTIO_BLK_S_OK;
  const uint64_t size = uint64_t{raw.num_sectors} * BlockFile::kSectorSize;
  segments_.push_back({raw.sector * BlockFile::kSectorSize, size, (raw.flags & known) != 0});
  // Zeroes may have to be written.
  if (!discard) cost_ += size;
  return VIRTIO_BLK_S_OK;
}

const BlockIo& BlockRequest::next(const BlockFile& file) {
  io_ = {};
  switch (operation_) {
    case Operation::kRead:
    case Operation::kWrite: {
      const bool write = operation_ == Operation::kWrite;
      io_.kind = write ? BlockIo::Kind::kWrite : BlockIo::Kind::kRead;
      io_.flags = write && write_through_ ? RWF_DSYNC : 0;
      io_.offset = offset_ + done_;
      const auto left = std::span(buffers_).subspan(buffer_);
      io_.buffers = left.first(std::min(left.size(), kMostBuffers));
      break;
    }
    case Operation::kDiscard:
      io_ = file.discard(segments_[segment_].offset, segments_[segment_].size);
      break;
    case Operation::kWriteZeroes:
      // Behind the last segment: what makes them stable.
      if (segment_ < segments_.size()) next_zeroes(file, segments_[segment_]);
      break;
    case Operation::kNone:
    case Operation::kFlush:
    case Operation::kGetId:
      break;  // kSync is the default
  }
  return io_;
}

void BlockRequest::next_zeroes(const BlockFile& file, const Segment& segment) {
  io_.offset = segment.offset + segment_done_;
  io_.size = segment.size - segment_done_;
  // fallocate() does it on block devices too. Without UNMAP room stays allocated.
  io_.kind = BlockIo::Kind::kAllocate;
  if (segment.unmap && file.can_punch_holes()) {
    io_.flags = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  } else if (file.can_zero_ranges()) {
    io_.flags = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
  } else {
    io_.kind = BlockIo::Kind::kWrite;
    io_.buffers = zero_buffers();
    if (io_.size < kZeroes * kZeroBuffers) {
      // Whole buffers first, then the rest of one.
      buffers_.assign(1, {zero_buffers()[0].iov_base, std::min<size_t>(io_.size, kZeroes)});
      io_.buffers = buffers_;
    }
  }
}

bool BlockRequest::fail(int64_t result) {
  error_ = static_cast<int>(-result);
  // A device that cannot discard says so; its guest then stops asking.
  status_ = operation_ == Operation::kDiscard && result == -EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP
                                                                       : VIRTIO_BLK_S_IOERR;
  return true;
}

bool BlockRequest::advance(int64_t result) {
  switch (operation_) {
    case Operation::kRead:
    case Operation::kWrite:
      return advance_transfer(result);
    case Operation::kDiscard:
    case Operation::kWriteZeroes:
      return advance_segment(result);
    case Operation::kNone:
    case Operation::kFlush:
    case Operation::kGetId:
      break;
  }
  return result < 0 ? fail(result) : true;
}

bool BlockRequest::advance_transfer(int64_t result) {
  if (result < 0) return fail(result);
  // The file has become shorter than the disk.
  if (result == 0) return fail(-EIO);
  done_ += static_cast<uint32_t>(result);
  auto left = static_cast<size_t>(result);
  while (left != 0) {
    iovec& buffer = buffers_[buffer_];
    const size_t step = std::min(left, buffer.iov_len);
    buffer.iov_base = static_cast<std::byte*>(buffer.iov_base) + step;
    buffer.iov_len -= step;
    if (buffer.iov_len == 0) ++buffer_;
    left -= step;
  }
  return done_ == size_;
}

bool BlockRequest::advance_segment(int64_t result) {
  if (segment_ == segments_.size()) return result < 0 ? fail(result) : true;
  if (io_.kind == BlockIo::Kind::kWrite) {
    if (result <= 0) return fail(result < 0 ? result : -EIO);
    segment_done_ += static_cast<uint64_t>(result);
    if (segment_done_ < segments_[segment_].size) return false;
  } else if (result < 0) {
    // The file remembers what it cannot do: next() takes another way.
    if (operation_ == Operation::kWriteZeroes && result == -EOPNOTSUPP) return false;
    return fail(result);
  }
  segment_done_ = 0;
  if (++segment_ < segments_.size()) return false;
  return operation_ == Operation::kDiscard || !write_through_;
}

}  // namespace kiln::vmm
