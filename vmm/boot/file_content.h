// SPDX-License-Identifier: Apache-2.0
// Bytes of files that are in the guest's memory before its first instruction.
#pragma once

#include <cstdint>
#include <span>

#include "base/error.h"
#include "vmm/memory/guest_memory.h"

namespace kiln::vmm {

// Bytes of a regular file; the descriptor is borrowed.
struct FileRange {
  int fd = -1;
  uint64_t offset = 0;
  uint64_t size = 0;

  FileRange sub(uint64_t skip, uint64_t length) const { return {fd, offset + skip, length}; }
};

// How bytes came into memory; the three add up to what there was to load.
struct Placed {
  uint64_t mapped = 0;  // private pages of the file
  uint64_t copied = 0;
  uint64_t zero = 0;  // pages of zeroes: RAM is zero already, so they are not touched
};

// The size of a regular file; kInvalidArgument for anything else.
Result<uint64_t> regular_file_size(int fd);

// All of `out`, from `offset` on; kDataLoss where the file ends before.
Result<void> read_exactly(int fd, uint64_t offset, std::span<std::byte> out);

// Both want memory that nothing was written to yet. kOutOfRange where the range does not lie in one
// region, kDataLoss where the file is too short.
Result<void> copy_file(const FileRange& file, const GuestMemory& memory, uint64_t address,
                       Placed& placed);
// Whole pages are mapped copy-on-write and the ends copied; all is copied where pages of the file
// and of the guest do not coincide.
Result<void> map_file(const FileRange& file, const GuestMemory& memory, uint64_t address,
                      Placed& placed);

}  // namespace kiln::vmm
