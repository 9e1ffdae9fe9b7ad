// SPDX-License-Identifier: Apache-2.0
// The kernel asks for modules by running a program, in the guest's own namespaces and as root: this
// one again. It does so when a container needs a driver that is not there; whether it may have it
// is what the kernel has decided before.
#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "base/error.h"

namespace kiln::agent {

// Makes this program the one that is asked, if there are modules that it could load.
Result<void> take_module_requests();

// The module that the kernel's command line (kernel/kmod.c: `-q -- NAME`) asks for.
std::optional<std::string_view> requested_module(std::span<char* const> arguments);

// Loads it, if it is one of the guest image's. What the process ends with: 0 or 1, of which the
// kernel takes little notice.
int answer_module_request(std::string_view name);

}  // namespace kiln::agent
