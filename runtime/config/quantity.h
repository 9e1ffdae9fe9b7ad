// SPDX-License-Identifier: Apache-2.0
// Numbers as people write them in configuration files and annotations.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/error.h"

namespace kiln::runtime {

// `512`, `512M`, `512MiB`, `2G`, `1T`, in powers of 1024; MiB without a unit.
Result<uint64_t> parse_mib(std::string_view text);
// Decimal digits only, in [least, most].
Result<uint64_t> parse_number(std::string_view text, uint64_t least, uint64_t most);
// `true` or `false`.
Result<bool> parse_bool(std::string_view text);

}  // namespace kiln::runtime
