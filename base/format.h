// SPDX-License-Identifier: Apache-2.0
// fmt without its locale support: std::locale alone would cost the guest agent a megabyte.
#pragma once

#ifndef FMT_STATIC_THOUSANDS_SEPARATOR
#error "the build defines FMT_STATIC_THOUSANDS_SEPARATOR for every file (see meson.build)"
#endif
#include <fmt/format.h>

namespace kiln {
using fmt::format;
}  // namespace kiln
