// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include <set>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/format.h"

namespace kiln {
namespace {

std::string position_of(std::string_view text, size_t byte) {
  size_t line = 1;
  size_t column = 1;
  for (size_t i = 0; i + 1 < byte && i < text.size(); ++i) {
    column = text[i] == '\n' ? 1 : column + 1;
    line += text[i] == '\n' ? 1 : 0;
  }
  return fmt::format("line {}, column {}", line, column);
}

// "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error …" → the part
// after the position.
std::string reason_of(std::string_view what) {
  const size_t column = what.find("column");
  const size_t colon = column == std::string_view::npos ? column : what.find(": ", column);
  return std::string(colon == std::string_view::npos ? what : what.substr(colon + 2));
}

// The text may be a hostile peer's: nothing of it that a terminal would obey. The library spares
// U+007F, and a key comes with its escapes resolved.
std::string printable(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return text;
}

}  // namespace

Result<Json> parse_json(std::string_view text, int max_depth) {
  std::string duplicate;
  std::vector<std::set<std::string>> keys;
  const auto callback = [&](int /*depth*/, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end && !keys.empty()) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.empty()) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys.back().insert(key).second && duplicate.empty()) duplicate = key;
    }
    return true;
  };
  // The callback cannot stop the parser, so the depth is bounded before it: nesting needs one
  // bracket a level.
  int open_brackets = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (in_string) {
      if (text[i] == '\\')
        ++i;
      else if (text[i] == '"')
        in_string = false;
    } else if (text[i] == '"') {
      in_string = true;
    } else if (text[i] == '{' || text[i] == '[') {
      if (++open_brackets > max_depth)
        return invalid_argument(
            fmt::format("not JSON that we read: nested deeper than {}", max_depth));
    } else if (text[i] == '}' || text[i] == ']') {
      --open_brackets;
    }
  }
  try {
    Json value = Json::parse(text, callback);
    if (!duplicate.empty())
      return invalid_argument(fmt::format("not valid JSON: key `{}` appears twice in one object",
                                          printable(duplicate)));
    return value;
  } catch (const Json::parse_error& error) {
    return invalid_argument(fmt::format("not valid JSON: {}: {}", position_of(text, error.byte),
                                        printable(reason_of(error.what()))));
  } catch (const Json::exception& error) {
    return invalid_argument(fmt::format("not valid JSON: {}", printable(error.what())));
  }
}

std::string dump_json(const Json& value, int indent) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace kiln
