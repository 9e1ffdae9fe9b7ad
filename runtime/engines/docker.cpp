// SPDX-License-Identifier: Apache-2.0
// /etc/docker/daemon.json: one file for everything, with the user's members beside ours.
#include <nlohmann/json.hpp>

#include "base/json.h"
#include "runtime/engines/engine.h"

namespace kiln::runtime {
namespace {

using Ordered = nlohmann::ordered_json;

constexpr char kRuntimes[] = "runtimes";
constexpr char kName[] = "kiln";

// parse_json says what is wrong and where; this keeps the members' order.
Result<Ordered> parse_object(const std::string& text) {
  const Json checked = TRY(parse_json(text));
  if (!checked.is_object()) return invalid_argument("it is no JSON object");
  if (const auto runtimes = checked.find(kRuntimes);
      runtimes != checked.end() && !runtimes->is_object())
    return invalid_argument("its `runtimes` is no JSON object");
  return Ordered::parse(text, nullptr, false);
}

// As the file has it: the white space in front of its first member.
std::string print(const Ordered& value, const std::string& before) {
  int width = 4;
  char filler = ' ';
  const size_t line = before.find('\n');
  if (line != std::string::npos && line + 1 < before.size()) {
    const size_t end = before.find_first_not_of(" \t", line + 1);
    if (end != std::string::npos && end > line + 1) {
      width = static_cast<int>(end - line - 1);
      filler = before[line + 1];
    }
  }
  return value.dump(width, filler, false, Ordered::error_handler_t::replace) + "\n";
}

// Written by us: a path to a program of our name, and nothing else.
bool is_ours(const Ordered& runtime) {
  if (!runtime.is_object() || runtime.size() != 1 || !runtime.contains("path") ||
      !runtime["path"].is_string())
    return false;
  const auto path = runtime["path"].get<std::string>();
  return path == kName || path.ends_with(std::string("/") + kName);
}

tl::unexpected<Error> not_ours() {
  return make_error(ErrorKind::kAlreadyExists,
                    "its runtime `kiln` is not from `kiln install`: it is left alone");
}

}  // namespace

Result<std::string> merge_docker_runtime(const std::string& before, const std::string& ours) {
  const Ordered wanted = TRY(parse_object(ours));
  Ordered merged = before.empty() ? Ordered::object() : TRY(parse_object(before));
  Ordered& runtimes = merged[kRuntimes];
  if (runtimes.contains(kName)) {
    if (!is_ours(runtimes[kName])) return not_ours();
    if (runtimes[kName] == wanted.at(kRuntimes).at(kName)) return before;
  }
  runtimes[kName] = wanted.at(kRuntimes).at(kName);
  return print(merged, before.empty() ? ours : before);
}

Result<std::string> remove_docker_runtime(const std::string& before, const std::string& /*ours*/) {
  Ordered rest = TRY(parse_object(before));
  if (!rest.contains(kRuntimes) || !rest[kRuntimes].contains(kName)) return before;
  Ordered& runtimes = rest[kRuntimes];
  if (!is_ours(runtimes[kName])) return not_ours();
  runtimes.erase(kName);
  if (runtimes.empty()) rest.erase(kRuntimes);
  if (rest.empty()) return std::string();
  return print(rest, before);
}

}  // namespace kiln::runtime
