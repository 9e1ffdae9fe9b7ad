// SPDX-License-Identifier: Apache-2.0
// One table for what can be set: by a key of the file, and by an annotation where it has a name.
#pragma once

#include <span>
#include <string_view>

#include "runtime/config/config.h"

namespace kiln::runtime {

struct Setting {
  std::string_view key;         // `section.key`, `key` at the top level; empty: no key of the file
  std::string_view annotation;  // behind io.kiln.; empty: only the file can set it
  // Errors say what the value must be; the caller names the key.
  Result<void> (*from_file)(Config& config, const std::string& value);
  Result<void> (*from_annotation)(Config& config, const std::string& value);
};

std::span<const Setting> settings();

}  // namespace kiln::runtime
