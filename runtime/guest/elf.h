// SPDX-License-Identifier: Apache-2.0
// What is needed of ELF (elf(5)) in kernels and their modules. Files come from packages or from
// the user: every offset is checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace kiln::runtime {

// Little-endian 64-bit ELF, x86-64.
class ElfFile {
 public:
  // `bytes` may be the file's beginning alone, `file_size` is then the whole file's. Checks that
  // every segment lies inside the file.
  static Result<ElfFile> parse(std::span<const std::byte> bytes, uint64_t file_size);

  // XEN_ELFNOTE_PHYS32_ENTRY: where a PVH boot enters the kernel (Xen's docs/misc/pvh.pandoc).
  Result<uint64_t> pvh_entry() const;
  // Dynamically linked: it starts only where its interpreter is.
  bool has_interpreter() const;
  // The bytes of a section that is in the file; nullopt without such a section.
  Result<std::optional<std::span<const std::byte>>> section(std::string_view name) const;

 private:
  struct Segment {
    uint32_t type;
    uint64_t offset;
    uint64_t size;
    uint64_t align;
  };
  ElfFile() = default;
  Result<void> read_segments(uint64_t offset, uint16_t entry_size, uint16_t count);
  Result<std::span<const std::byte>> range(uint64_t offset, uint64_t size) const;

  std::span<const std::byte> bytes_;
  uint64_t file_size_ = 0;
  std::vector<Segment> segments_;
  uint64_t sections_offset_ = 0;
  uint16_t section_count_ = 0;
  uint16_t names_index_ = 0;
};

// Values of the NUL-separated `key=value` strings of a module's .modinfo.
std::vector<std::string> modinfo_values(std::span<const std::byte> modinfo, std::string_view key);

}  // namespace kiln::runtime
