// SPDX-License-Identifier: Apache-2.0
// Values of flags in the forms that runc's users know.
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"

namespace kiln::runtime {

// Bytes: `512`, `512m`, `1.5G`, `64MiB`, in powers of 1024.
Result<int64_t> parse_ram_bytes(const std::string& text);
// Milliseconds, rounded up, of `5s`, `100ms`, `1m30s`, `1.5h`.
Result<int64_t> parse_duration_ms(const std::string& text);
// A whole number, all of `text`.
Result<int64_t> parse_int64(const std::string& text);
Result<uint64_t> parse_uint64(const std::string& text);

}  // namespace kiln::runtime
