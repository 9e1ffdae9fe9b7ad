// SPDX-License-Identifier: Apache-2.0
// Capabilities of the calling thread (capabilities(7)), as sets of bits: 1 << CAP_….
#pragma once

#include <cstdint>

#include "base/error.h"

namespace kiln::vmm {

constexpr uint64_t capability_bit(unsigned number) { return uint64_t{1} << number; }

// In the effective set.
bool has_capability(unsigned number);

// From now on changes of the uid leave capabilities alone; a no-op without CAP_SETPCAP.
Result<void> keep_capabilities_across_setuid();

// Leaves at most `kept` of what the thread has, permitted and effective. Nothing can be gained any
// more: the bounding, inheritable and ambient sets are emptied, and the secure bits that make root
// special are off and locked. Needs CAP_SETPCAP for that; without it, but also without any
// capability, it does what is left to do.
Result<void> drop_capabilities(uint64_t kept);

}  // namespace kiln::vmm
