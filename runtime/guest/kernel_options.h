// SPDX-License-Identifier: Apache-2.0
// What a guest's kernel must have been built with.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace kiln::runtime {

// Of a kernel's .config: `CONFIG_` removed; `y`, `m`, or a number or string as it stands there.
// What is not set is not there.
using KernelOptions = std::map<std::string, std::string, std::less<>>;

KernelOptions parse_kernel_options(std::string_view config);

// The .config that CONFIG_IKCONFIG=y keeps inside an ELF kernel; nullopt without one.
Result<std::optional<std::string>> embedded_config(std::string_view elf);

struct OptionFindings {
  std::vector<std::string> missing;      // containers cannot run without it
  std::vector<std::string> recommended;  // missing too: what does not work without it
  std::vector<std::string> modules;      // to load in the guest, without their dependencies
  KernelOptions found;                   // of those that were looked at
};
OptionFindings check_kernel_options(const KernelOptions& options);

// The modules that a kernel without a known .config may need; those that are built in are not
// found, and not missed.
std::vector<std::string> wanted_modules();

}  // namespace kiln::runtime
