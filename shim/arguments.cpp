// SPDX-License-Identifier: Apache-2.0
#include "shim/arguments.h"

#include <optional>
#include <string_view>

#include "base/format.h"

namespace kiln::shim {
namespace {

struct Flag {
  const char* name;
  std::string Arguments::*text;  // one of the two
  bool Arguments::*truth;
};

constexpr Flag kFlags[] = {
    {"id", &Arguments::id, nullptr},
    {"namespace", &Arguments::namespace_name, nullptr},
    {"address", &Arguments::address, nullptr},
    {"publish-binary", &Arguments::publish_binary, nullptr},
    {"bundle", &Arguments::bundle, nullptr},
    {"socket", &Arguments::socket, nullptr},
    {"debug", nullptr, &Arguments::debug},
    {"v", nullptr, &Arguments::version},
    {"version", nullptr, &Arguments::version},
    {"info", nullptr, &Arguments::info},
};

// As Go's strconv.ParseBool.
Result<bool> parse_truth(const std::string& name, std::string_view text) {
  for (const char* word : {"1", "t", "T", "true", "TRUE", "True"})
    if (text == word) return true;
  for (const char* word : {"0", "f", "F", "false", "FALSE", "False"})
    if (text == word) return false;
  return invalid_argument(fmt::format("invalid boolean value \"{}\" for -{}", text, name));
}

}  // namespace

Result<Arguments> parse_arguments(int argc, char** argv) {
  Arguments out;
  int at = 1;
  for (; at < argc; ++at) {
    std::string_view word = argv[at];
    if (word.size() < 2 || word.front() != '-') break;
    word.remove_prefix(word.starts_with("--") ? 2 : 1);
    if (word.empty()) {
      ++at;
      break;
    }
    const size_t equals = word.find('=');
    const std::string name(word.substr(0, equals));
    std::optional<std::string_view> value;
    if (equals != std::string_view::npos) value = word.substr(equals + 1);
    const Flag* flag = nullptr;
    for (const Flag& candidate : kFlags)
      if (name == candidate.name) flag = &candidate;
    if (flag == nullptr)
      return invalid_argument(fmt::format("flag provided but not defined: -{}", name));
    if (flag->truth != nullptr) {
      out.*flag->truth = value ? TRY(parse_truth(name, *value)) : true;
      continue;
    }
    if (!value && ++at >= argc)
      return invalid_argument(fmt::format("flag needs an argument: -{}", name));
    out.*flag->text = value ? *value : std::string_view(argv[at]);
  }
  if (at < argc) out.action = argv[at];
  return out;
}

}  // namespace kiln::shim
