// SPDX-License-Identifier: Apache-2.0
// The one place where nlohmann/json's exceptions are caught.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "base/error.h"

namespace kiln {

using Json = nlohmann::json;

// Parses one JSON text. Errors: not JSON (with line and column), deeper than `max_depth`, duplicate
// object keys.
Result<Json> parse_json(std::string_view text, int max_depth = 64);

// Text of `value`; bytes that are not UTF-8 become U+FFFD instead of failing. `indent` -1: one
// line.
std::string dump_json(const Json& value, int indent = -1);

}  // namespace kiln
