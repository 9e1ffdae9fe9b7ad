// SPDX-License-Identifier: Apache-2.0
// The compressions that kernels and their modules come in.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"

namespace kiln::runtime {

enum class Compression { kNone, kGzip, kXz, kZstd, kLz4Legacy };

// By the magic number at the front; kNone if there is none that is known.
Compression detect_compression(std::span<const std::byte> bytes);
std::string_view compression_name(Compression compression);

// One stream; what follows it is ignored (a kernel's payload ends with its unpacked size).
// kDataLoss if it ends early or is damaged, kOutOfRange beyond `max_bytes`.
Result<std::string> decompress(Compression compression, std::span<const std::byte> bytes,
                               size_t max_bytes);

}  // namespace kiln::runtime
