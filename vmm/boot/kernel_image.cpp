// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/kernel_image.h"

#include <elf.h>

#include <asm/bootparam.h>
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <optional>
#include <string_view>

#include "base/bytes.h"
#include "base/format.h"
#include "vmm/kvm/layout.h"

namespace kiln::vmm {
namespace {

constexpr uint64_t kPageSize = 4096;
constexpr uint64_t kPageMask = kPageSize - 1;
constexpr uint32_t kSetupMagic = 0x53726448;  // "HdrS" (Documentation/arch/x86/boot.rst)
// Xen's public/elfnote.h.
constexpr uint32_t kXenNotePhys32Entry = 18;
constexpr std::string_view kXenNoteOwner("Xen\0", 4);
// How much is copied from where a vDSO may begin; Linux 6.1's has 8 KiB.
constexpr uint64_t kVdsoRoom = 64U << 10;

tl::unexpected<Error> truncated(std::string_view what) {
  return make_error(ErrorKind::kDataLoss, format("truncated: its {} goes past its end", what));
}

template <typename T>
Result<T> read_struct(int fd, uint64_t offset) {
  T value;
  TRY(read_exactly(fd, offset, std::as_writable_bytes(std::span(&value, 1))));
  return value;
}

template <typename T>
Result<std::vector<T>> read_table(int fd, uint64_t offset, size_t count) {
  std::vector<T> table(count);
  TRY(read_exactly(fd, offset, std::as_writable_bytes(std::span(table))));
  return table;
}

bool lies_within(uint64_t offset, uint64_t size, uint64_t limit) {
  return offset <= limit && size <= limit - offset;
}

tl::unexpected<Error> not_elf(int fd, uint64_t file_size) {
  constexpr uint64_t kHeader = offsetof(boot_params, hdr);
  if (file_size >= kHeader + sizeof(setup_header)) {
    const auto header = read_struct<setup_header>(fd, kHeader);
    if (header && header->header == kSetupMagic)
      return invalid_argument(
          "a bzImage, not an ELF kernel: it is unpacked when the guest image is built");
  }
  return invalid_argument("not an ELF kernel");
}

Result<Elf64_Ehdr> read_elf_header(int fd, uint64_t file_size) {
  std::array<std::byte, SELFMAG> magic{};
  if (file_size < sizeof(Elf64_Ehdr)) return invalid_argument("not an ELF kernel: it is too short");
  TRY(read_exactly(fd, 0, magic));
  if (std::memcmp(magic.data(), ELFMAG, SELFMAG) != 0) return not_elf(fd, file_size);
  const auto header = TRY(read_struct<Elf64_Ehdr>(fd, 0));
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
      header.e_machine != EM_X86_64)
    return invalid_argument("not a kernel for x86-64");
  if (header.e_type != ET_EXEC && header.e_type != ET_DYN)
    return invalid_argument(format("ELF type {} is not an executable", header.e_type));
  return header;
}

// Owner, type and content; consumes them with their padding. nullopt where the notes end or break.
struct Note {
  uint32_t type = 0;
  std::string_view owner;
  std::span<const std::byte> content;
};
std::optional<Note> next_note(ByteReader& reader, uint64_t alignment) {
  const auto skip_padding = [&](uint64_t size) {
    // The last note's may be missing.
    const uint64_t padding = -size & (alignment - 1);
    reader.read_bytes(std::min<uint64_t>(padding, reader.rest().size()));
  };
  const auto header = reader.read<Elf64_Nhdr>();
  if (!header) return std::nullopt;
  const auto owner = reader.read_bytes(header->n_namesz);
  if (!owner) return std::nullopt;
  // The header has 12 bytes, which is no multiple of 8.
  skip_padding(sizeof(Elf64_Nhdr) + uint64_t{header->n_namesz});
  const auto content = reader.read_bytes(header->n_descsz);
  if (!content) return std::nullopt;
  skip_padding(header->n_descsz);
  return Note{
      header->n_type, {reinterpret_cast<const char*>(owner->data()), owner->size()}, *content};
}

}  // namespace

KernelMapping largest_mapping(const GuestMemory& memory) {
  KernelMapping out = KernelMapping::kAll;
  for (const GuestMemory::Region& region : memory.regions()) {
    if (region.page_size != kPageSize) return KernelMapping::kNone;
    if (region.fd >= 0) out = KernelMapping::kNeverFreed;
  }
  return out;
}

Result<KernelImage> KernelImage::read(int fd) {
  KernelImage image(fd);
  const auto parse = [&]() -> Result<void> {
    image.file_size_ = TRY(regular_file_size(fd));
    TRY(image.read_program_headers());
    TRY(image.check_segments());
    return image.read_sections();
  };
  TRY(wrap(parse(), "read the kernel"));
  return image;
}

uint64_t KernelImage::end() const { return segments_.back().address + segments_.back().size; }

Result<void> KernelImage::read_program_headers() {
  const auto header = TRY(read_elf_header(fd_, file_size_));
  if (header.e_phentsize != sizeof(Elf64_Phdr))
    return invalid_argument(format("program headers of {} bytes", header.e_phentsize));
  if (header.e_phnum == 0 || header.e_phnum > kMaxProgramHeaders)
    return invalid_argument(format("{} program headers", header.e_phnum));
  if (!lies_within(header.e_phoff, header.e_phnum * sizeof(Elf64_Phdr), file_size_))
    return truncated("table of program headers");
  const auto table = TRY(read_table<Elf64_Phdr>(fd_, header.e_phoff, header.e_phnum));
  for (size_t i = 0; i < table.size(); ++i) {
    const Elf64_Phdr& entry = table[i];
    if (entry.p_type == PT_LOAD && entry.p_memsz != 0) TRY(add_segment(i, entry));
    if (entry.p_type == PT_NOTE)
      TRY(read_notes({fd_, entry.p_offset, entry.p_filesz}, entry.p_align == 8 ? 8 : 4));
  }
  return {};
}

Result<void> KernelImage::add_segment(size_t index, const Elf64_Phdr& header) {
  if (header.p_filesz > header.p_memsz)
    return invalid_argument(format("segment {} is larger in the file than in memory", index));
  if (!lies_within(header.p_offset, header.p_filesz, file_size_))
    return truncated(format("segment {}", index));
  // Below is what the machine itself tells its guest.
  if (header.p_paddr < layout::kHighMemory)
    return invalid_argument(format("segment {} is at {:#x}, below 1 MiB", index, header.p_paddr));
  if (header.p_memsz > UINT64_MAX - header.p_paddr)
    return invalid_argument(format("segment {} wraps around", index));
  segments_.push_back({header.p_paddr, header.p_memsz, {fd_, header.p_offset, header.p_filesz}});
  return {};
}

Result<void> KernelImage::check_segments() {
  if (segments_.empty()) return invalid_argument("no segment to load");
  std::sort(segments_.begin(), segments_.end(),
            [](const Segment& a, const Segment& b) { return a.address < b.address; });
  for (size_t i = 1; i < segments_.size(); ++i) {
    const Segment& before = segments_[i - 1];
    if (segments_[i].address - before.address < before.size)
      return invalid_argument(
          format("segments at {:#x} and {:#x} overlap", before.address, segments_[i].address));
  }
  if (!has_entry_) return invalid_argument("no PVH entry point (a kernel has one with CONFIG_PVH)");
  const bool inside = std::any_of(segments_.begin(), segments_.end(), [&](const Segment& segment) {
    return entry_ >= segment.address && entry_ - segment.address < segment.file.size;
  });
  if (!inside) return invalid_argument(format("the entry point {:#x} is in no segment", entry_));
  return {};
}

Result<void> KernelImage::read_notes(const FileRange& notes, uint64_t alignment) {
  if (!lies_within(notes.offset, notes.size, file_size_)) return truncated("notes");
  if (notes.size > kMaxNotes) return invalid_argument(format("{} bytes of notes", notes.size));
  const auto bytes = TRY(read_table<std::byte>(fd_, notes.offset, notes.size));
  ByteReader reader(bytes);
  while (const auto note = next_note(reader, alignment)) {
    if (note->type != kXenNotePhys32Entry || note->owner != kXenNoteOwner || has_entry_) continue;
    ByteReader content(note->content);
    std::optional<uint64_t> entry;
    if (note->content.size() == sizeof(uint64_t)) entry = content.read<uint64_t>();
    if (note->content.size() == sizeof(uint32_t)) entry = content.read<uint32_t>();
    if (!entry || *entry > UINT32_MAX)
      return invalid_argument("its PVH entry point is no 32-bit address");
    entry_ = static_cast<uint32_t>(*entry);
    has_entry_ = true;
  }
  return {};
}

// The section headers only tell what may be mapped: where they are missing or make no sense, all is
// copied.
Result<void> KernelImage::read_sections() {
  const auto header = TRY(read_struct<Elf64_Ehdr>(fd_, 0));
  if (header.e_shentsize != sizeof(Elf64_Shdr) || header.e_shnum > kMaxSections ||
      header.e_shstrndx >= header.e_shnum ||
      !lies_within(header.e_shoff, header.e_shnum * sizeof(Elf64_Shdr), file_size_))
    return {};
  const auto table = TRY(read_table<Elf64_Shdr>(fd_, header.e_shoff, header.e_shnum));
  const Elf64_Shdr& strings = table[header.e_shstrndx];
  if (strings.sh_size > kMaxSectionNames ||
      !lies_within(strings.sh_offset, strings.sh_size, file_size_))
    return {};
  const auto names = TRY(read_table<std::byte>(fd_, strings.sh_offset, strings.sh_size));
  for (const Elf64_Shdr& section : table) {
    if (section.sh_type != SHT_PROGBITS || (section.sh_flags & SHF_ALLOC) == 0 ||
        section.sh_name >= names.size() ||
        !lies_within(section.sh_offset, section.sh_size, file_size_))
      continue;
    ByteReader reader(std::span<const std::byte>(names).subspan(section.sh_name));
    const auto name = reader.read_c_string().value_or("");
    if (name != ".text" && name != ".rodata") continue;
    sections_.push_back({{fd_, section.sh_offset, section.sh_size}, name == ".rodata"});
  }
  std::sort(sections_.begin(), sections_.end(),
            [](const Section& a, const Section& b) { return a.file.offset < b.file.offset; });
  for (size_t i = 1; i < sections_.size(); ++i) {
    const FileRange& before = sections_[i - 1].file;
    if (sections_[i].file.offset - before.offset < before.size) sections_.clear();
  }
  return {};
}

// Linux frees the gaps between .text and .rodata and between those and .data (mark_rodata_ro of
// arch/x86/mm/init_64.c), and what it frees after boot (.init.*, .smp_locks, .brk …) is in sections
// of other names. In .rodata are the vDSOs, though, page-aligned ELF files that every process has
// mapped: one that writes them to a file with O_DIRECT makes a back-end read them. They are copied.
Result<std::vector<FileRange>> KernelImage::never_freed() const {
  std::vector<FileRange> out;
  for (const Section& section : sections_) {
    const FileRange& file = section.file;
    uint64_t start = 0;
    for (uint64_t at = -file.offset & kPageMask;
         section.constants && lies_within(at, SELFMAG, file.size);) {
      std::array<std::byte, SELFMAG> magic{};
      TRY(read_exactly(fd_, file.offset + at, magic));
      if (std::memcmp(magic.data(), ELFMAG, SELFMAG) != 0) {
        at += kPageSize;
        continue;
      }
      out.push_back(file.sub(start, at - start));
      at += kVdsoRoom;
      start = std::min(at, file.size);
    }
    out.push_back(file.sub(start, file.size - start));
  }
  return out;
}

Result<void> KernelImage::load_segment(const Segment& segment,
                                       const std::vector<FileRange>& mappable,
                                       const GuestMemory& memory, Placed& placed) const {
  uint64_t done = 0;
  for (const FileRange& range : mappable) {
    const uint64_t start = range.offset - segment.file.offset;
    if (range.offset < segment.file.offset || start < done ||
        !lies_within(start, range.size, segment.file.size))
      continue;
    TRY(copy_file(segment.file.sub(done, start - done), memory, segment.address + done, placed));
    TRY(map_file(segment.file.sub(start, range.size), memory, segment.address + start, placed));
    done = start + range.size;
  }
  return copy_file(segment.file.sub(done, segment.file.size - done), memory, segment.address + done,
                   placed);
}

Result<Placed> KernelImage::load(const GuestMemory& memory, KernelMapping at_most) const {
  const auto place = [&]() -> Result<Placed> {
    for (const Segment& segment : segments_) {
      if (!memory.contains(segment.address, segment.size))
        return make_error(ErrorKind::kOutOfRange,
                          format("there is no memory for its segment at {:#x}+{:#x}",
                                 segment.address, segment.size));
    }
    const KernelMapping mapping = std::min(at_most, largest_mapping(memory));
    std::vector<FileRange> mappable;
    if (mapping == KernelMapping::kNeverFreed) mappable = TRY(never_freed());
    if (mapping == KernelMapping::kAll) {
      for (const Segment& segment : segments_) mappable.push_back(segment.file);
    }
    Placed placed;
    for (const Segment& segment : segments_) TRY(load_segment(segment, mappable, memory, placed));
    return placed;
  };
  return wrap(place(), "load the kernel");
}

}  // namespace kiln::vmm
