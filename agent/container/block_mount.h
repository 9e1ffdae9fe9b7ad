// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "agent/container/container.h"

namespace kiln::agent {

// By the agent: the file system on `source` as a mount that only the descriptor holds. `flags`:
// MS_* of mount(2); `data`: the file system's own options, joined by commas. What a hostile image
// does to the kernel, it does to the guest's.
Result<UniqueFd> mount_block_device(const BlockSource& source, unsigned long flags,
                                    const std::string& data);

}  // namespace kiln::agent
