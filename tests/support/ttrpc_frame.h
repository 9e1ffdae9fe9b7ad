// SPDX-License-Identifier: Apache-2.0
// A ttrpc frame's bytes, for tests and fuzzers.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace kiln::ttrpc {

inline std::string big_endian(uint32_t value) {
  std::string out;
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(value >> shift & 0xff);
  return out;
}

inline std::string frame(uint32_t stream, uint8_t type, uint8_t flags, std::string_view data) {
  std::string out = big_endian(static_cast<uint32_t>(data.size())) + big_endian(stream);
  out += static_cast<char>(type);
  out += static_cast<char>(flags);
  return out.append(data);
}

}  // namespace kiln::ttrpc
