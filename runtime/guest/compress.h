// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"

namespace kiln::runtime {

// A gzip file, small rather than soon; the same bytes from the same content. The agent unpacks it
// (agent/guest/gunzip.h).
Result<std::string> compress(std::string_view content);

}  // namespace kiln::runtime
