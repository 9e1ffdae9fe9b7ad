// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "base/error.h"

namespace kiln::agent {

// Loads the kernel modules that the lines of `list_path` name (absolute, or relative to the list's
// directory), in that order. No such file: a kernel that needs none. A module that is built in or
// loaded already is no error. Goes on after a failure and returns the first.
Result<void> load_modules(const std::string& list_path);

}  // namespace kiln::agent
