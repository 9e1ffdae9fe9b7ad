// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/error.h"

namespace kiln::agent {

// Copies what is in one directory into another (both O_PATH will do) for `tmpcopyup`: files,
// directories, links, fifos and devices with owner, mode, times and extended attributes. Other file
// systems mounted below the source are left out. No link is followed.
Result<void> copy_tree(int source_fd, int target_fd);

}  // namespace kiln::agent
