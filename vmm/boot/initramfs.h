// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/error.h"
#include "vmm/boot/file_content.h"
#include "vmm/memory/guest_memory.h"

namespace kiln::vmm {

struct Initramfs {
  uint64_t address = 0;  // guest-physical
  uint64_t size = 0;     // bytes
  Placed placed;
};

// Puts the file `fd` into the last pages of RAM below the hole. `kernel_end`: nothing may lie below
// it. Linux gives the pages to its allocator once it has unpacked them, so that they are mapped
// only in memory that is ours alone. kOutOfRange where it does not fit.
Result<Initramfs> load_initramfs(int fd, const GuestMemory& memory, uint64_t kernel_end);

}  // namespace kiln::vmm
