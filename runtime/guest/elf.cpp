// SPDX-License-Identifier: Apache-2.0
#include "runtime/guest/elf.h"

#include <elf.h>

#include <algorithm>
#include <cstring>

#include "base/bytes.h"
#include "base/format.h"

namespace kiln::runtime {
namespace {

constexpr uint32_t kXenPhys32Entry = 18;  // XEN_ELFNOTE_PHYS32_ENTRY
constexpr std::string_view kXenNoteName = "Xen";

tl::unexpected<Error> truncated() { return make_error(ErrorKind::kDataLoss, "truncated ELF file"); }

// Notes' names and descriptors are padded to 4 bytes in every Linux kernel, whatever p_align says.
constexpr size_t padded(uint64_t size) { return (size + 3) & ~uint64_t{3}; }

// The descriptor of Xen's PHYS32_ENTRY note, if it is among `notes`.
Result<std::optional<uint64_t>> find_entry(std::span<const std::byte> notes) {
  ByteReader reader(notes);
  while (const auto header = reader.read<Elf64_Nhdr>()) {
    const auto name = reader.read_bytes(padded(header->n_namesz));
    const auto value = name ? reader.read_bytes(padded(header->n_descsz)) : std::nullopt;
    if (!value) return make_error(ErrorKind::kDataLoss, "an ELF note is longer than its segment");
    const auto own_name = ByteReader(*name).read_c_string();
    if (header->n_type != kXenPhys32Entry || !own_name || *own_name != kXenNoteName) continue;
    ByteReader entry(*value);
    if (header->n_descsz == sizeof(uint32_t))
      return std::optional<uint64_t>(entry.read<uint32_t>());
    if (header->n_descsz == sizeof(uint64_t))
      return std::optional<uint64_t>(entry.read<uint64_t>());
    return make_error(ErrorKind::kDataLoss, "the PVH note has no address");
  }
  return std::optional<uint64_t>();
}

}  // namespace

Result<ElfFile> ElfFile::parse(std::span<const std::byte> bytes, uint64_t file_size) {
  const auto header = ByteReader(bytes).read<Elf64_Ehdr>();
  if (bytes.size() < SELFMAG || std::memcmp(bytes.data(), ELFMAG, SELFMAG) != 0)
    return invalid_argument("not an ELF file");
  if (!header) return truncated();
  if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB ||
      header->e_machine != EM_X86_64)
    return invalid_argument("not an ELF file for x86-64");
  ElfFile out;
  out.bytes_ = bytes;
  out.file_size_ = file_size;
  out.sections_offset_ = header->e_shoff;
  out.section_count_ = header->e_shoff == 0 || header->e_shentsize != sizeof(Elf64_Shdr)
                           ? uint16_t{0}
                           : header->e_shnum;
  out.names_index_ = header->e_shstrndx;
  TRY(out.read_segments(header->e_phoff, header->e_phentsize, header->e_phnum));
  return out;
}

Result<void> ElfFile::read_segments(uint64_t offset, uint16_t entry_size, uint16_t count) {
  if (count == 0) return {};
  if (entry_size != sizeof(Elf64_Phdr))
    return invalid_argument("the ELF file's segment table has entries of an unknown size");
  ByteReader table(TRY(range(offset, uint64_t{count} * sizeof(Elf64_Phdr))));
  while (const auto entry = table.read<Elf64_Phdr>()) {
    if (entry->p_filesz != 0 &&
        (entry->p_offset > file_size_ || entry->p_filesz > file_size_ - entry->p_offset))
      return truncated();
    segments_.push_back({entry->p_type, entry->p_offset, entry->p_filesz, entry->p_align});
  }
  return {};
}

Result<std::span<const std::byte>> ElfFile::range(uint64_t offset, uint64_t size) const {
  if (offset > bytes_.size() || size > bytes_.size() - offset) return truncated();
  return bytes_.subspan(offset, size);
}

Result<uint64_t> ElfFile::pvh_entry() const {
  for (const Segment& segment : segments_) {
    if (segment.type != PT_NOTE) continue;
    const auto notes = TRY(range(segment.offset, segment.size));
    if (const auto entry = TRY(find_entry(notes))) return *entry;
  }
  return make_error(ErrorKind::kFailedPrecondition,
                    "the kernel has no PVH entry point (CONFIG_PVH is needed)");
}

bool ElfFile::has_interpreter() const {
  return std::any_of(segments_.begin(), segments_.end(),
                     [](const Segment& segment) { return segment.type == PT_INTERP; });
}

Result<std::optional<std::span<const std::byte>>> ElfFile::section(std::string_view name) const {
  using Found = std::optional<std::span<const std::byte>>;
  if (names_index_ >= section_count_) return Found();
  const auto table = TRY(range(sections_offset_, uint64_t{section_count_} * sizeof(Elf64_Shdr)));
  const auto header_at = [&](size_t index) {
    return *ByteReader(table.subspan(index * sizeof(Elf64_Shdr))).read<Elf64_Shdr>();
  };
  const Elf64_Shdr names_header = header_at(names_index_);
  const auto names = TRY(range(names_header.sh_offset, names_header.sh_size));
  for (size_t i = 0; i < section_count_; ++i) {
    const Elf64_Shdr header = header_at(i);
    if (header.sh_name >= names.size() || header.sh_type == SHT_NOBITS) continue;
    const auto own_name = ByteReader(names.subspan(header.sh_name)).read_c_string();
    if (own_name && *own_name == name) return Found(TRY(range(header.sh_offset, header.sh_size)));
  }
  return Found();
}

std::vector<std::string> modinfo_values(std::span<const std::byte> modinfo, std::string_view key) {
  std::vector<std::string> out;
  ByteReader reader(modinfo);
  while (const auto entry = reader.read_c_string()) {
    if (entry->size() > key.size() && entry->starts_with(key) && (*entry)[key.size()] == '=')
      out.emplace_back(entry->substr(key.size() + 1));
  }
  return out;
}

}  // namespace kiln::runtime
