// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/error.h"

namespace kiln::agent {

struct CopyLimits {
  uint64_t bytes = UINT64_MAX;  // of files, in whole pages of 4 KiB
  size_t names = SIZE_MAX;
};

// Copies what is in one directory into another (both O_PATH will do): files,
// directories, links, fifos and devices with owner, mode, times and extended attributes. Other file
// systems mounted below the source are left out. No link is followed. kOutOfRange: it is more than
// `limits`, of which a part has been copied.
Result<void> copy_tree(int source_fd, int target_fd, const CopyLimits& limits = {});

// Owner, mode, extended attributes and times of one file or directory; both are open for reading.
Result<void> copy_attributes(int source_fd, int target_fd);

}  // namespace kiln::agent
