// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "runtime/guest/modules.h"

namespace kiln::runtime {

// The archive that the kernel unpacks into its first root: the agent as /init, the modules in the
// order in which /lib/modules/load names them.
Result<std::string> make_initramfs(const std::string& agent,
                                   const std::vector<KernelModule>& modules);

}  // namespace kiln::runtime
