// SPDX-License-Identifier: Apache-2.0
// Guest-physical memory as the devices see it. The guest changes it at any time, so bytes are
// copied out once and then used; no pointer into it leaves this folder except as iovecs for a
// system call.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::vmm {

// A range that has been checked to lie within one region of guest memory.
struct GuestRange {
  uint64_t address = 0;  // guest-physical
  uint32_t size = 0;     // bytes; may be 0
};

class GuestMemory {
 public:
  struct Region {
    uint64_t guest_address = 0;
    uint64_t size = 0;
    uint64_t user_address = 0;  // vhost-user front-end's virtual address; 0 elsewhere
    std::byte* host = nullptr;
  };

  // `fd` mapped shared at `offset`. Regions must not overlap and must not wrap; at most 64.
  Result<void> map_region(const UniqueFd& fd, uint64_t offset, uint64_t guest_address,
                          uint64_t size, uint64_t user_address);
  // For tests: anonymous memory.
  Result<void> map_anonymous(uint64_t guest_address, uint64_t size);
  ~GuestMemory();
  GuestMemory() = default;
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;

  bool contains(uint64_t address,
                uint64_t size) const;  // false when it wraps or crosses a region's end
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

  // For readv/writev/sendmsg on guest buffers: the kernel copies, we do not look.
  Result<iovec> iovec_of(GuestRange range) const;
  // vhost-user: front-end address → guest-physical.
  Result<uint64_t> guest_address_of_user(uint64_t user_address) const;

 private:
  const Region* find(uint64_t address, uint64_t size) const;
  std::vector<Region> regions_;
};

}  // namespace kiln::vmm
