// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/error.h"

namespace kiln::agent {

// A gzip file of one member. kDataLoss if it is damaged, kOutOfRange beyond `max_bytes`.
Result<std::string> gunzip(std::string_view packed, size_t max_bytes);

}  // namespace kiln::agent
