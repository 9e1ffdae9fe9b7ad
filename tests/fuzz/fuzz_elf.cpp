// SPDX-License-Identifier: Apache-2.0
// An ELF file from a package: as a kernel, and as a module with a .modinfo section.
#include <cstdlib>

#include "base/bytes.h"
#include "runtime/guest/elf.h"

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer names it
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

void parse(std::span<const std::byte> bytes, uint64_t file_size) {
  const auto elf = kiln::runtime::ElfFile::parse(bytes, file_size);
  if (!elf) return;
  static_cast<void>(elf->pvh_entry());
  static_cast<void>(elf->has_interpreter());
  const auto section = elf->section(".modinfo");
  if (!section || !*section) return;
  const std::span<const std::byte> info = **section;
  if (info.data() < bytes.data() || info.data() + info.size() > bytes.data() + bytes.size())
    abort();
  for (const auto& value : kiln::runtime::modinfo_values(info, "name"))
    if (value.size() > info.size()) abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  parse(bytes, size);
  // The beginning of a longer file.
  parse(bytes, uint64_t{size} * 2);
  parse(bytes.first(size / 2), size);
  return 0;
}
