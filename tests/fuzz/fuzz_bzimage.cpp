// SPDX-License-Identifier: Apache-2.0
// A kernel image from a package, and its payload in each compression.
#include <cstdlib>

#include "base/bytes.h"
#include "runtime/guest/bzimage.h"
#include "runtime/guest/decompress.h"
#include "runtime/guest/elf.h"

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer names it
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using kiln::runtime::Compression;
  constexpr size_t kMostBytes = 1U << 20;
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto kernel = kiln::runtime::unpack_kernel(bytes);
  if (kernel) {
    // What it promises of what it gives out.
    const auto elf = kiln::runtime::ElfFile::parse(kiln::as_bytes(kernel->elf), kernel->elf.size());
    if (!elf || !elf->pvh_entry() || kernel->compression.empty()) abort();
  }
  const Compression compression = kiln::runtime::detect_compression(bytes);
  const auto unpacked = kiln::runtime::decompress(compression, bytes, kMostBytes);
  if (unpacked && unpacked->size() > kMostBytes) abort();
  return 0;
}
