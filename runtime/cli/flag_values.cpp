// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/flag_values.h"

#include <charconv>
#include <cmath>
#include <string_view>

#include "base/format.h"

namespace kiln::runtime {
namespace {

// Digits with at most one point among them, from the start of `text`, which loses them.
bool take_decimal(std::string_view& text, double& value) {
  const size_t end = std::min(text.find_first_not_of("0123456789."), text.size());
  const std::string_view digits = text.substr(0, end);
  if (digits.find_first_of("0123456789") == std::string_view::npos) return false;
  const auto [rest, failed] = std::from_chars(digits.data(), digits.data() + digits.size(), value,
                                              std::chars_format::fixed);
  if (failed != std::errc() || rest != digits.data() + digits.size()) return false;
  text.remove_prefix(end);
  return true;
}

bool take_unit(std::string_view& text, double& milliseconds) {
  constexpr struct {
    std::string_view name;
    double milliseconds;
  } units[] = {{"ns", 1e-6}, {"us", 1e-3}, {"\xc2\xb5s", 1e-3}, {"ms", 1},
               {"s", 1e3},   {"m", 6e4},   {"h", 3.6e6}};
  for (const auto& unit : units) {
    if (!text.starts_with(unit.name)) continue;
    text.remove_prefix(unit.name.size());
    milliseconds = unit.milliseconds;
    return true;
  }
  return false;
}

template <typename Number>
Result<Number> parse_whole(const std::string& text, const char* function) {
  Number value = 0;
  std::string_view digits = text;
  if (digits.starts_with('+')) digits.remove_prefix(1);
  const auto [end, failed] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  const char* why = nullptr;
  if (failed == std::errc::result_out_of_range) why = "value out of range";
  if (why == nullptr && (failed != std::errc() || end != digits.data() + digits.size()))
    why = "invalid syntax";
  if (why == nullptr) return value;
  return invalid_argument(fmt::format("strconv.{}: parsing \"{}\": {}", function, text, why));
}

}  // namespace

Result<int64_t> parse_ram_bytes(const std::string& text) {
  const auto invalid = [&] { return invalid_argument(fmt::format("invalid size: '{}'", text)); };
  std::string_view rest = text;
  double value = 0;
  if (!take_decimal(rest, value)) return invalid();
  if (rest.starts_with(' ')) rest.remove_prefix(1);
  constexpr std::string_view units = "kmgtp";
  if (!rest.empty()) {
    const size_t unit = units.find(static_cast<char>(rest.front() | 0x20));
    if (unit != std::string_view::npos) {
      value *= std::pow(1024.0, static_cast<double>(unit + 1));
      rest.remove_prefix(1);
      if (rest.starts_with('i') || rest.starts_with('I')) rest.remove_prefix(1);
    }
    if (rest.starts_with('b') || rest.starts_with('B')) rest.remove_prefix(1);
  }
  if (!rest.empty() || value >= 9.2e18) return invalid();
  return static_cast<int64_t>(value);
}

Result<int64_t> parse_duration_ms(const std::string& text) {
  const auto invalid = [&] {
    return invalid_argument(fmt::format("time: invalid duration \"{}\"", text));
  };
  std::string_view rest = text;
  const bool negative = rest.starts_with('-');
  if (negative || rest.starts_with('+')) rest.remove_prefix(1);
  if (rest == "0") return 0;
  if (rest.empty()) return invalid();
  double total = 0;
  while (!rest.empty()) {
    double value = 0;
    double unit = 0;
    if (!take_decimal(rest, value) || !take_unit(rest, unit)) return invalid();
    total += value * unit;
  }
  if (total >= 9.2e12) return invalid();
  const auto milliseconds = static_cast<int64_t>(std::ceil(total));
  return negative ? -milliseconds : milliseconds;
}

Result<int64_t> parse_int64(const std::string& text) {
  return parse_whole<int64_t>(text, "ParseInt");
}

Result<uint64_t> parse_uint64(const std::string& text) {
  return parse_whole<uint64_t>(text, "ParseUint");
}

}  // namespace kiln::runtime
