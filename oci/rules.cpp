// SPDX-License-Identifier: Apache-2.0
#include "oci/rules.h"

namespace kiln::oci {
namespace {

bool is_not_empty(std::string_view text) { return !text.empty(); }

bool is_environment(std::string_view text) {
  const size_t equals = text.find('=');
  return equals != std::string_view::npos && equals > 0;
}

// Consumes a decimal number of at most 6 digits; -1: there is none.
int take_number(std::string_view& text) {
  int value = -1;
  size_t digits = 0;
  while (digits < text.size() && digits < 6 && text[digits] >= '0' && text[digits] <= '9') {
    value = (value < 0 ? 0 : value * 10) + (text[digits] - '0');
    ++digits;
  }
  text.remove_prefix(digits);
  return value;
}

// cpuset(7), "List format", without its rarely used stride.
bool is_cpu_list(std::string_view text) {
  if (text.empty()) return true;
  while (true) {
    const int first = take_number(text);
    if (first < 0) return false;
    if (!text.empty() && text.front() == '-') {
      text.remove_prefix(1);
      if (take_number(text) < first) return false;
    }
    if (text.empty()) return true;
    if (text.front() != ',') return false;
    text.remove_prefix(1);
  }
}

}  // namespace

bool is_absolute_path(std::string_view text) { return !text.empty() && text.front() == '/'; }

constinit const Rule kAbsolutePath{.text = "must be an absolute path", .accepts = is_absolute_path};
constinit const Rule kNotEmpty{.text = "must not be empty", .accepts = is_not_empty};
constinit const Rule kEnvironment{.text = "must have the form NAME=value",
                                  .accepts = is_environment};
constinit const Rule kCpuList{.text = "must be a list such as 0-3,7", .accepts = is_cpu_list};

}  // namespace kiln::oci
