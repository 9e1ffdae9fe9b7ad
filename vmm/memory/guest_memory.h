// SPDX-License-Identifier: Apache-2.0
// Guest-physical memory as the devices see it. The guest changes it at any time, so bytes are
// copied out once and then used; no pointer into it leaves this folder except as iovecs for a
// system call.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::vmm {

// A range that has been checked to lie within one region of guest memory.
struct GuestRange {
  uint64_t address = 0;  // guest-physical
  uint32_t size = 0;     // bytes; may be 0
};

// A range of guest memory that was checked once and is then read and written by offset, for data
// structures that are visited for every request (the rings). Offsets are the caller's own
// arithmetic, never a guest's number that was not reduced to the window's size before. Valid as
// long as the GuestMemory that it came from.
class GuestWindow {
 public:
  GuestWindow() = default;

  size_t size() const { return size_; }

  // The bytes are fetched exactly once: the barrier keeps the compiler from reading them again.
  template <typename T>
  T load(size_t offset) const {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    std::memcpy(&value, at(offset, sizeof(T)), sizeof(T));
    asm volatile("" : : : "memory");
    return value;
  }
  template <typename T>
  void store(size_t offset, const T& value) const {
    static_assert(std::is_trivially_copyable_v<T>);
    std::memcpy(at(offset, sizeof(T)), &value, sizeof(T));
  }
  // `offset` must be 2-aligned (the window's start is, for every user).
  uint16_t load_acquire_u16(size_t offset) const {
    return __atomic_load_n(reinterpret_cast<const uint16_t*>(at(offset, 2)), __ATOMIC_ACQUIRE);
  }
  uint16_t load_relaxed_u16(size_t offset) const {
    return __atomic_load_n(reinterpret_cast<const uint16_t*>(at(offset, 2)), __ATOMIC_RELAXED);
  }
  void store_release_u16(size_t offset, uint16_t value) const {
    __atomic_store_n(reinterpret_cast<uint16_t*>(at(offset, 2)), value, __ATOMIC_RELEASE);
  }

 private:
  friend class GuestMemory;
  GuestWindow(std::byte* host, size_t size) : host_(host), size_(size) {}
  std::byte* at(size_t offset, size_t size) const;

  std::byte* host_ = nullptr;
  size_t size_ = 0;
};

class GuestMemory {
 public:
  struct Region {
    uint64_t guest_address = 0;
    uint64_t size = 0;
    uint64_t user_address = 0;  // vhost-user front-end's virtual address; 0 elsewhere
    std::byte* host = nullptr;
    void* mapping = nullptr;  // what munmap wants: may start before `host`
    size_t mapping_size = 0;
    // RAM that another process may map: its memfd, which lives as long as the memory, and where in
    // it the region is. -1: none.
    int fd = -1;
    uint64_t fd_offset = 0;
    uint64_t page_size = 4096;  // of the host's pages behind it: 2 MiB for hugetlbfs
  };
  static constexpr size_t kMaxRegions = 64;

  // `fd` mapped shared at `offset`. Regions must not overlap and must not wrap; at most 64. The
  // file must be long enough: a shorter one would be a SIGBUS later.
  Result<void> map_region(const UniqueFd& fd, uint64_t offset, uint64_t guest_address,
                          uint64_t size, uint64_t user_address);
  // For tests: anonymous memory.
  Result<void> map_anonymous(uint64_t guest_address, uint64_t size);
  // A mapping that the caller made (guest_ram.h). It is this object's from now on; on failure it is
  // unmapped at once.
  Result<void> adopt_region(const Region& region);
  // The file of regions whose `fd` it is; closed with the memory.
  void own_file(UniqueFd file) { files_.push_back(std::move(file)); }
  // Puts a private, copy-on-write view of the file in the place of memory. What was there is gone,
  // and so is the sharing: whoever else maps the region's own file sees neither these bytes nor
  // what the guest writes there. Everything is a multiple of 4 KiB; the range lies in one region,
  // whose pages are no larger; the file is a regular one, holds all of the range, and keeps it as
  // long as the memory lives.
  Result<void> map_private(uint64_t guest_address, int fd, uint64_t offset, uint64_t size) const;
  ~GuestMemory();
  GuestMemory() = default;
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;

  bool contains(uint64_t address,
                uint64_t size) const;  // false when it wraps or crosses a region's end
  // How many bytes of the range [address, address + size) lie in the region that holds `address`; 0
  // where there is none. Adjacent regions may share a buffer, which is then two ranges.
  uint64_t contiguous(uint64_t address, uint64_t size) const;
  // kOutOfRange unless contained.
  Result<void> read(uint64_t address, std::span<std::byte> out) const;
  Result<void> write(uint64_t address, std::span<const std::byte> bytes) const;
  template <typename T>
  Result<T> read_object(uint64_t address) const {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    TRY(read(address, std::as_writable_bytes(std::span(&value, 1))));
    return value;
  }
  template <typename T>
  Result<void> write_object(uint64_t address, const T& value) const {
    static_assert(std::is_trivially_copyable_v<T>);
    return write(address, std::as_bytes(std::span(&value, 1)));
  }
  // Atomic 16-bit accesses for ring indices; the address must be 2-aligned and contained.
  Result<uint16_t> load_acquire_u16(uint64_t address) const;
  Result<void> store_release_u16(uint64_t address, uint16_t value) const;
  Result<GuestWindow> window(uint64_t address, uint64_t size) const;

  // For readv/writev/sendmsg on guest buffers: the kernel copies, we do not look.
  Result<iovec> iovec_of(GuestRange range) const;
  // Appends the iovecs of `ranges` after their first `skip` bytes, at most `limit` bytes in all.
  Result<void> append_iovecs(std::span<const GuestRange> ranges, uint64_t skip, uint64_t limit,
                             std::vector<iovec>& out) const;
  // Copies from or to the concatenation of `ranges`, starting `skip` bytes into it. kOutOfRange
  // when the ranges are too short.
  Result<void> read_ranges(std::span<const GuestRange> ranges, uint64_t skip,
                           std::span<std::byte> out) const;
  Result<void> write_ranges(std::span<const GuestRange> ranges, uint64_t skip,
                            std::span<const std::byte> bytes) const;
  // vhost-user: front-end address → guest-physical.
  Result<uint64_t> guest_address_of_user(uint64_t user_address) const;

  std::span<const Region> regions() const { return regions_; }

 private:
  const Region* find(uint64_t address, uint64_t size) const;
  Result<void> check_new_region(const Region& region) const;
  std::vector<Region> regions_;
  std::vector<UniqueFd> files_;
};

}  // namespace kiln::vmm
