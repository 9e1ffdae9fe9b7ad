// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/net/mac_address.h"

#include <algorithm>
#include <charconv>

#include "base/format.h"

namespace kiln::vmm {

bool is_unicast(const MacAddress& mac) {
  constexpr uint8_t kGroupBit = 1;  // IEEE 802: the first bit on the wire
  return (mac[0] & kGroupBit) == 0 &&
         std::any_of(mac.begin(), mac.end(), [](uint8_t byte) { return byte != 0; });
}

Result<MacAddress> parse_mac(std::string_view text) {
  constexpr size_t kLength = 17;
  MacAddress mac{};
  bool good = text.size() == kLength;
  for (size_t i = 0; good && i < mac.size(); ++i) {
    const char* digits = text.data() + 3 * i;
    const auto [end, error] = std::from_chars(digits, digits + 2, mac[i], 16);
    good = error == std::errc() && end == digits + 2 && (i + 1 == mac.size() || *end == ':');
  }
  if (!good) return invalid_argument(format("`{}` is not a MAC address", text));
  if (!is_unicast(mac))
    return invalid_argument(format("`{}` is not the address of one interface", text));
  return mac;
}

}  // namespace kiln::vmm
