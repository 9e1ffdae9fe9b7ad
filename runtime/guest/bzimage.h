// SPDX-License-Identifier: Apache-2.0
// From the bzImage of a distribution to the ELF kernel inside (Documentation/arch/x86/boot.rst).
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "base/error.h"

namespace kiln::runtime {

struct UnpackedKernel {
  std::string elf;
  std::string compression;  // "none" if the file was the ELF kernel itself
};

// `bytes`: a bzImage or an ELF kernel. The result has a PVH entry point and is whole. kDataLoss
// "truncated kernel image" and the like for what is not.
Result<UnpackedKernel> unpack_kernel(std::span<const std::byte> bytes);

}  // namespace kiln::runtime
