// SPDX-License-Identifier: Apache-2.0
#include "runtime/config/quantity.h"

#include <algorithm>
#include <charconv>

#include "base/format.h"

namespace kiln::runtime {
namespace {

struct Unit {
  std::string_view name;
  unsigned shift;  // from MiB
};
constexpr Unit kUnits[] = {
    {"", 0},    {"M", 0},    {"m", 0},  {"MB", 0}, {"MiB", 0}, {"G", 10},   {"g", 10},
    {"GB", 10}, {"GiB", 10}, {"T", 20}, {"t", 20}, {"TB", 20}, {"TiB", 20},
};

}  // namespace

Result<uint64_t> parse_number(std::string_view text, uint64_t least, uint64_t most) {
  uint64_t value = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failed != std::errc() || end != text.data() + text.size() || value < least || value > most)
    return invalid_argument(
        fmt::format("must be a number from {} to {}, is `{}`", least, most, text));
  return value;
}

Result<uint64_t> parse_mib(std::string_view text) {
  const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  const auto* unit = std::find_if(std::begin(kUnits), std::end(kUnits), [&](const Unit& candidate) {
    return candidate.name == text.substr(digits);
  });
  uint64_t value = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + digits, value);
  if (unit == std::end(kUnits) || digits == 0 || failed != std::errc() ||
      value > (UINT64_MAX >> unit->shift))
    return invalid_argument(fmt::format("must be a size such as 512M or 2G, is `{}`", text));
  return value << unit->shift;
}

Result<bool> parse_bool(std::string_view text) {
  if (text == "true") return true;
  if (text == "false") return false;
  return invalid_argument(fmt::format("must be true or false, is `{}`", text));
}

}  // namespace kiln::runtime
