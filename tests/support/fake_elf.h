// SPDX-License-Identifier: Apache-2.0
// ELF kernels made on the spot, well-formed or not, for tests of the loader.
#pragma once

#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"

namespace kiln::vmm {

// A file of exactly these bytes.
inline UniqueFd file_of(std::string_view bytes) {
  UniqueFd file(memfd_create("test", MFD_CLOEXEC));
  if (!file || write(file.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()))
    abort();
  return file;
}

// Headers are public: a test spoils what it likes before bytes() puts the file together.
class FakeElf {
 public:
  static constexpr uint64_t kNotes = 0x800;  // offset in the file
  static constexpr uint64_t kNames = 0xc00;
  static constexpr uint64_t kSections = 0xd00;

  FakeElf() {
    std::memcpy(static_cast<unsigned char*>(header.e_ident), ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_type = ET_EXEC;
    header.e_machine = EM_X86_64;
    header.e_phoff = sizeof header;
    header.e_phentsize = sizeof(Elf64_Phdr);
  }

  void put(uint64_t offset, std::string_view bytes) {
    content_.resize(std::max<uint64_t>(content_.size(), offset + bytes.size()));
    content_.replace(offset, bytes.size(), bytes);
  }
  Elf64_Phdr& add_load(uint64_t offset, uint64_t address, uint64_t file_size,
                       uint64_t memory_size) {
    content_.resize(std::max<uint64_t>(content_.size(), offset + file_size));
    return programs.emplace_back(
        Elf64_Phdr{PT_LOAD, PF_R | PF_X, offset, 0, address, file_size, memory_size, 0x1000});
  }
  // A PT_NOTE with one note of Xen's.
  Elf64_Phdr& add_note(uint32_t type, std::string_view value) {
    std::string note;
    append(note, Elf64_Nhdr{4, static_cast<uint32_t>(value.size()), type});
    note.append("Xen\0", 4).append(value);
    put(kNotes, note);
    return programs.emplace_back(
        Elf64_Phdr{PT_NOTE, PF_R, kNotes, 0, 0, note.size(), note.size(), 4});
  }
  Elf64_Phdr& add_entry(uint32_t entry) {
    std::string value;
    append(value, entry);
    return add_note(18, value);
  }
  Elf64_Shdr& add_section(std::string_view name, uint64_t offset, uint64_t size) {
    if (sections.empty()) {
      sections.emplace_back();  // SHN_UNDEF
      sections.emplace_back(Elf64_Shdr{0, SHT_STRTAB, 0, 0, kNames, 0});
      names_.push_back('\0');
      header.e_shstrndx = 1;
      header.e_shoff = kSections;
      header.e_shentsize = sizeof(Elf64_Shdr);
    }
    const auto name_at = static_cast<uint32_t>(names_.size());
    names_.append(name).push_back('\0');
    sections[1].sh_size = names_.size();
    return sections.emplace_back(Elf64_Shdr{name_at, SHT_PROGBITS, SHF_ALLOC, 0, offset, size});
  }

  std::string bytes() {
    std::string out = content_;
    if (header.e_phnum == 0) header.e_phnum = static_cast<uint16_t>(programs.size());
    if (header.e_shnum == 0) header.e_shnum = static_cast<uint16_t>(sections.size());
    overlay(out, 0, &header, sizeof header);
    overlay(out, sizeof header, programs.data(), programs.size() * sizeof(Elf64_Phdr));
    if (!sections.empty()) {
      overlay(out, kNames, names_.data(), names_.size());
      overlay(out, kSections, sections.data(), sections.size() * sizeof(Elf64_Shdr));
    }
    return out;
  }
  UniqueFd file() { return file_of(bytes()); }

  Elf64_Ehdr header{};
  std::vector<Elf64_Phdr> programs;
  std::vector<Elf64_Shdr> sections;

 private:
  template <typename T>
  static void append(std::string& out, const T& value) {
    out.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  static void overlay(std::string& out, uint64_t offset, const void* bytes, size_t size) {
    out.resize(std::max<uint64_t>(out.size(), offset + size));
    std::memcpy(out.data() + offset, bytes, size);
  }
  std::string content_;
  std::string names_;
};

}  // namespace kiln::vmm
