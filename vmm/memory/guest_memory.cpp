// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/guest_memory.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cassert>

#include "base/format.h"

namespace kiln::vmm {
namespace {

constexpr uint64_t kPageSize = 4096;
constexpr uint64_t kAlignment = 16;  // of a descriptor table, the largest there is

tl::unexpected<Error> out_of_range(uint64_t address, uint64_t size) {
  return make_error(ErrorKind::kOutOfRange,
                    format("guest address {:#x}+{:#x} is outside memory", address, size));
}

bool overlaps(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size) {
  return a < b + b_size && b < a + a_size;
}

// Both directions of a copy over scattered ranges: `copy(host iovec, offset in the local buffer)`.
template <typename Copy>
Result<void> for_each_piece(std::span<const GuestRange> ranges, uint64_t skip, size_t size,
                            Copy copy) {
  size_t done = 0;
  for (const GuestRange& range : ranges) {
    if (done == size) break;
    if (skip >= range.size) {
      skip -= range.size;
      continue;
    }
    const uint64_t piece = std::min<uint64_t>(range.size - skip, size - done);
    TRY(copy(range.address + skip, done, static_cast<size_t>(piece)));
    done += piece;
    skip = 0;
  }
  if (done != size)
    return make_error(ErrorKind::kOutOfRange, "descriptor chain is shorter than its content");
  return {};
}

}  // namespace

std::byte* GuestWindow::at(size_t offset, size_t size) const {
  assert(offset <= size_ && size <= size_ - offset);
  static_cast<void>(size);
  return host_ + offset;
}

GuestMemory::~GuestMemory() {
  for (const Region& region : regions_) munmap(region.mapping, region.mapping_size);
}

Result<void> GuestMemory::check_new_region(const Region& region) const {
  if (region.size == 0) return invalid_argument("memory region is empty");
  if (region.guest_address + region.size < region.guest_address ||
      region.user_address + region.size < region.user_address ||
      region.size > UINT64_MAX - kPageSize)
    return invalid_argument(
        format("memory region {:#x}+{:#x} wraps around", region.guest_address, region.size));
  if (regions_.size() >= kMaxRegions)
    return make_error(ErrorKind::kResourceExhausted, "too many memory regions");
  for (const Region& other : regions_) {
    if (overlaps(region.guest_address, region.size, other.guest_address, other.size))
      return invalid_argument(format("memory regions at {:#x} and {:#x} overlap",
                                     region.guest_address, other.guest_address));
  }
  return {};
}

Result<void> GuestMemory::map_region(const UniqueFd& fd, uint64_t offset, uint64_t guest_address,
                                     uint64_t size, uint64_t user_address) {
  Region region{guest_address, size, user_address, nullptr, nullptr, 0};
  TRY(check_new_region(region));
  struct stat status {};
  if (fstat(fd.get(), &status) != 0) return sys_error("stat the memory region's file");
  if (!S_ISREG(status.st_mode)) return invalid_argument("memory region is not a regular file");
  const auto file_size = static_cast<uint64_t>(status.st_size);
  if (offset > file_size || size > file_size - offset)
    return invalid_argument(
        format("memory region {:#x}+{:#x} goes past its file's end", offset, size));
  // Rings are accessed atomically: what is aligned in the guest must be so here.
  if (offset % kAlignment != guest_address % kAlignment)
    return invalid_argument(format("memory region at {:#x} is misaligned", guest_address));

  // Front-ends hand out offsets that are no multiple of the page size; hugetlbfs wants its own page
  // size, which is its block size.
  uint64_t granule = static_cast<uint64_t>(status.st_blksize);
  if (granule < kPageSize || (granule & (granule - 1)) != 0) granule = kPageSize;
  const uint64_t start = offset & ~(granule - 1);
  const uint64_t length = offset - start + size;
  void* mapping = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                       fd.get(), static_cast<off_t>(start));
  if (mapping == MAP_FAILED) return sys_error("map guest memory");
  // A core dump of ours is no place for a guest's secrets.
  madvise(mapping, length, MADV_DONTDUMP);
  region.mapping = mapping;
  region.mapping_size = length;
  region.host = static_cast<std::byte*>(mapping) + (offset - start);
  regions_.push_back(region);
  return {};
}

Result<void> GuestMemory::map_anonymous(uint64_t guest_address, uint64_t size) {
  Region region{guest_address, size, 0, nullptr, nullptr, 0};
  TRY(check_new_region(region));
  void* mapping = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return sys_error("map guest memory");
  region.mapping = mapping;
  region.mapping_size = size;
  region.host = static_cast<std::byte*>(mapping);
  regions_.push_back(region);
  return {};
}

Result<void> GuestMemory::adopt_region(const Region& region) {
  if (auto checked = check_new_region(region); !checked) {
    munmap(region.mapping, region.mapping_size);
    return checked;
  }
  regions_.push_back(region);
  return {};
}

Result<void> GuestMemory::map_private(uint64_t guest_address, int fd, uint64_t offset,
                                      uint64_t size) const {
  const Region* region = find(guest_address, size);
  if (region == nullptr || size == 0) return out_of_range(guest_address, size);
  std::byte* host = region->host + (guest_address - region->guest_address);
  if (((guest_address | offset | size | reinterpret_cast<uintptr_t>(host)) & (kPageSize - 1)) != 0)
    return invalid_argument(format("file range {:#x}+{:#x} is not made of pages", offset, size));
  // A part of a larger page cannot be replaced.
  if (region->page_size != kPageSize)
    return invalid_argument(format("memory at {:#x} has large pages", guest_address));
  struct stat status {};
  if (fstat(fd, &status) != 0) return sys_error("stat the file to map");
  if (!S_ISREG(status.st_mode)) return invalid_argument("file to map is not a regular file");
  // Up to the end of its last page: the kernel fills that with zeroes.
  const auto file_size = static_cast<uint64_t>(status.st_size);
  if (offset > file_size || size > ((file_size - offset + kPageSize - 1) & ~(kPageSize - 1)))
    return make_error(ErrorKind::kOutOfRange,
                      format("file range {:#x}+{:#x} goes past the file's end", offset, size));
  if (mmap(host, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd,
           static_cast<off_t>(offset)) == MAP_FAILED)
    return sys_error("map a file into guest memory");
  madvise(host, size, MADV_DONTDUMP);
  return {};
}

const GuestMemory::Region* GuestMemory::find(uint64_t address, uint64_t size) const {
  for (const Region& region : regions_) {
    const uint64_t offset = address - region.guest_address;
    if (address >= region.guest_address && offset < region.size && size <= region.size - offset)
      return &region;
  }
  return nullptr;
}

bool GuestMemory::contains(uint64_t address, uint64_t size) const {
  return find(address, size) != nullptr;
}

uint64_t GuestMemory::contiguous(uint64_t address, uint64_t size) const {
  const Region* region = find(address, 0);
  if (region == nullptr) return 0;
  return std::min(size, region->size - (address - region->guest_address));
}

Result<void> GuestMemory::read(uint64_t address, std::span<std::byte> out) const {
  const Region* region = find(address, out.size());
  if (region == nullptr) return out_of_range(address, out.size());
  std::memcpy(out.data(), region->host + (address - region->guest_address), out.size());
  asm volatile("" : : : "memory");  // fetched exactly once
  return {};
}

Result<void> GuestMemory::write(uint64_t address, std::span<const std::byte> bytes) const {
  const Region* region = find(address, bytes.size());
  if (region == nullptr) return out_of_range(address, bytes.size());
  std::memcpy(region->host + (address - region->guest_address), bytes.data(), bytes.size());
  return {};
}

Result<GuestWindow> GuestMemory::window(uint64_t address, uint64_t size) const {
  const Region* region = find(address, size);
  if (region == nullptr) return out_of_range(address, size);
  return GuestWindow(region->host + (address - region->guest_address), size);
}

Result<uint16_t> GuestMemory::load_acquire_u16(uint64_t address) const {
  if (address % 2 != 0) return invalid_argument("ring index is misaligned");
  const GuestWindow index = TRY(window(address, 2));
  return index.load_acquire_u16(0);
}

Result<void> GuestMemory::store_release_u16(uint64_t address, uint16_t value) const {
  if (address % 2 != 0) return invalid_argument("ring index is misaligned");
  const GuestWindow index = TRY(window(address, 2));
  index.store_release_u16(0, value);
  return {};
}

Result<iovec> GuestMemory::iovec_of(GuestRange range) const {
  const Region* region = find(range.address, range.size);
  if (region == nullptr) return out_of_range(range.address, range.size);
  return iovec{region->host + (range.address - region->guest_address), range.size};
}

Result<void> GuestMemory::append_iovecs(std::span<const GuestRange> ranges, uint64_t skip,
                                        uint64_t limit, std::vector<iovec>& out) const {
  for (const GuestRange& range : ranges) {
    if (limit == 0) break;
    if (skip >= range.size) {
      skip -= range.size;
      continue;
    }
    const auto size = static_cast<uint32_t>(std::min<uint64_t>(range.size - skip, limit));
    out.push_back(TRY(iovec_of(GuestRange{range.address + skip, size})));
    limit -= size;
    skip = 0;
  }
  return {};
}

Result<void> GuestMemory::read_ranges(std::span<const GuestRange> ranges, uint64_t skip,
                                      std::span<std::byte> out) const {
  return for_each_piece(ranges, skip, out.size(), [&](uint64_t address, size_t done, size_t piece) {
    return read(address, out.subspan(done, piece));
  });
}

Result<void> GuestMemory::write_ranges(std::span<const GuestRange> ranges, uint64_t skip,
                                       std::span<const std::byte> bytes) const {
  return for_each_piece(ranges, skip, bytes.size(),
                        [&](uint64_t address, size_t done, size_t piece) {
                          return write(address, bytes.subspan(done, piece));
                        });
}

Result<uint64_t> GuestMemory::guest_address_of_user(uint64_t user_address) const {
  for (const Region& region : regions_) {
    if (user_address >= region.user_address && user_address - region.user_address < region.size)
      return region.guest_address + (user_address - region.user_address);
  }
  return make_error(ErrorKind::kOutOfRange,
                    format("front-end address {:#x} is in no memory region", user_address));
}

}  // namespace kiln::vmm
