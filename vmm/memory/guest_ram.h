// SPDX-License-Identifier: Apache-2.0
// The RAM of the built-in machine.
#pragma once

#include <cstdint>

#include "base/error.h"
#include "vmm/memory/guest_memory.h"

namespace kiln::vmm {

struct RamOptions {
  enum class Backing {
    kAnonymous,  // this process's alone: every device lives here
    kMemfd,      // can be shared with vhost-user back-ends
    kHugetlbfs,  // the same, of 2 MiB pages from the host's pool
  };
  static constexpr uint64_t kMaxSizeMib = uint64_t{1} << 24;  // 16 TiB

  uint64_t size_mib = 0;
  Backing backing = Backing::kAnonymous;
};

// Adds the regions of layout.h to `memory`: up to the hole, and from its end on. Nothing is faulted
// in, but hugetlbfs pages are reserved: kResourceExhausted where the pool has too few. RAM reads as
// zero. Regions that can be shared have `fd` and `fd_offset` set; one memfd, sealed against a
// change of its size, holds both.
Result<void> map_ram(GuestMemory& memory, const RamOptions& options);

}  // namespace kiln::vmm
