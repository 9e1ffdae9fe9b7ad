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
std::string optional_module_path(const std::string& file);

// The archive that the kernel unpacks into its first root: the agent as /init, the modules in the
// order in which /lib/modules/load names them, and in /lib/modules/on-demand those for later, with
// their table: `erofs fs_erofs: libcrc32c.ko.gz erofs.ko.gz`.
Result<std::string> make_initramfs(const ImageParts& parts);

}  // namespace kiln::runtime
