// SPDX-License-Identifier: Apache-2.0
// A root directory with nothing in it.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace kiln::vmm {

// A directory of the host that stays reachable: mounted in the new root, read-only, without
// anything that is mounted below it. `..` does not lead out of it.
struct KeptDirectory {
  std::string source;  // the host's path
  std::string place;   // in the new root, without a leading slash: `proc/self/fd`
};

// Makes an empty, read-only tmpfs the root of the calling process and lets go of every mount of the
// old one. In a mount namespace of its own, with CAP_SYS_ADMIN there. Descriptors that are open
// stay usable, whatever mount they are on. The working directory becomes the new root.
Result<void> enter_empty_root(const std::vector<KeptDirectory>& kept);

}  // namespace kiln::vmm
