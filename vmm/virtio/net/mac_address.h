// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "base/error.h"

namespace kiln::vmm {

using MacAddress = std::array<uint8_t, 6>;

// xx:xx:xx:xx:xx:xx in hexadecimal, upper or lower case. Refused where an interface cannot have the
// address as its own: it is all zeros or names a group.
Result<MacAddress> parse_mac(std::string_view text);
// Whether one interface can have it as its own.
bool is_unicast(const MacAddress& mac);

}  // namespace kiln::vmm
