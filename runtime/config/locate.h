// SPDX-License-Identifier: Apache-2.0
// Where kiln's own parts are: beside the running program in a build tree, else where they are
// installed.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "runtime/config/config.h"

namespace kiln::runtime {

// The directories to look in, in order.
Result<std::vector<std::string>> program_directories();

// kiln-vmm: the configuration's, else the first that is there.
Result<std::string> find_vmm_binary(const Config& config);

}  // namespace kiln::runtime
