// SPDX-License-Identifier: Apache-2.0
#include "runtime/forward_list.h"

#include <algorithm>
#include <climits>
#include <set>

#include "base/format.h"

namespace kiln::runtime {
namespace {

constexpr std::string_view kServe = "serve:";

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

bool is_plain_path(std::string_view path) {
  if (!path.starts_with('/') || path.size() < 2 || path.size() >= PATH_MAX) return false;
  while (!path.empty()) {
    path.remove_prefix(1);
    const std::string_view name = path.substr(0, path.find('/'));
    if (name.empty() || name == "." || name == "..") return false;
    path.remove_prefix(name.size());
  }
  return true;
}

Result<std::string> path_in(std::string_view text) {
  if (std::any_of(text.begin(), text.end(),
                  [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }))
    return invalid_argument("a path must not have control characters");
  if (!is_plain_path(text))
    return invalid_argument(
        fmt::format("`{}` must be an absolute path without `.`, `..` and empty names", text));
  return std::string(text);
}

Result<Forward> parse_entry(std::string_view entry) {
  Forward forward;
  if (entry.starts_with('/')) {
    forward.path = TRY(path_in(entry));
    return forward;
  }
  if (!entry.starts_with(kServe))
    return invalid_argument("must be PATH or serve:PATH=SHARED, with absolute paths");
  entry.remove_prefix(kServe.size());
  const size_t equals = entry.find('=');
  if (equals == std::string_view::npos || entry.find('=', equals + 1) != std::string_view::npos)
    return invalid_argument("must have one `=`, as in serve:PATH=SHARED");
  forward.path = TRY(path_in(entry.substr(0, equals)));
  forward.shared = TRY(path_in(entry.substr(equals + 1)));
  return forward;
}

}  // namespace

std::string text_of(const Forward& forward) {
  if (forward.shared.empty()) return forward.path;
  return fmt::format("{}{}={}", kServe, forward.path, forward.shared);
}

Error about_forward(const Forward& forward, Error error) {
  return std::move(error).wrap(
      fmt::format("annotation `{}`: `{}`", kForwardAnnotation, text_of(forward)));
}

Result<std::vector<Forward>> parse_forwards(std::string_view value) {
  std::vector<Forward> forwards;
  std::set<std::string> seen;
  bool more = true;
  while (more) {
    const size_t comma = value.find(',');
    more = comma != std::string_view::npos;
    const std::string_view entry = trimmed(value.substr(0, comma));
    if (more) value.remove_prefix(comma + 1);
    if (entry.empty()) return invalid_argument("has an entry that is empty");
    if (forwards.size() == kMaxForwards)
      return invalid_argument(fmt::format("has more than {} entries", kMaxForwards));
    Forward forward = TRY(wrap(parse_entry(entry), fmt::format("`{}`", entry)));
    for (const std::string& path : {forward.path, forward.shared}) {
      if (!path.empty() && !seen.insert(path).second)
        return invalid_argument(fmt::format("`{}`: `{}` is there twice", entry, path));
    }
    forwards.push_back(std::move(forward));
  }
  return forwards;
}

}  // namespace kiln::runtime
