// SPDX-License-Identifier: Apache-2.0
// linux.maskedPaths and linux.readonlyPaths. By the container's first process, after its mounts and
// before pivot_root.
#pragma once

#include "base/error.h"
#include "oci/spec.h"

namespace kiln::agent {

// A file becomes the guest's /dev/null, a directory an empty read-only one. What does not exist
// needs no mask.
Result<void> mask_paths(int root_fd, const oci::Strings& paths);

Result<void> make_paths_readonly(int root_fd, const oci::Strings& paths);

}  // namespace kiln::agent
