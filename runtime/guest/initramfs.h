// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "runtime/guest/image_parts.h"

namespace kiln::runtime {

// Paths in the archive, without the leading slash.
constexpr const char* kInitPath = "init";
std::string module_path(const std::string& name);

// The archive that the kernel unpacks into its first root: the agent as /init, the modules in the
// order in which /lib/modules/load names them, and those that lines of /lib/modules/on-demand name:
// `erofs: /lib/modules/crc32c.ko /lib/modules/erofs.ko`.
Result<std::string> make_initramfs(const ImageParts& parts);

}  // namespace kiln::runtime
