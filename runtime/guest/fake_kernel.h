// SPDX-License-Identifier: Apache-2.0
// Kernels and modules made on the spot, for tests.
#pragma once

#include <elf.h>

#include <asm/bootparam.h>
#include <cstddef>
#include <cstring>
#include <string>

namespace kiln::runtime::fake {

template <typename T>
void append(std::string& out, const T& value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

inline std::string note(const std::string& name, uint32_t type, const std::string& content) {
  std::string out;
  append(out, Elf64_Nhdr{static_cast<Elf64_Word>(name.size() + 1),
                         static_cast<Elf64_Word>(content.size()), type});
  out += name;
  out.resize((out.size() + 1 + 3) & ~size_t{3});
  out += content;
  out.resize((out.size() + 3) & ~size_t{3});
  return out;
}

inline std::string pvh_note(uint32_t entry = 0x1000200) {
  constexpr uint32_t kPhys32Entry = 18;
  std::string address;
  append(address, entry);
  // Another note first, as in a real kernel.
  return note("Linux", 1, "abc") + note("Xen", kPhys32Entry, address);
}

inline Elf64_Ehdr header() {
  Elf64_Ehdr out{};
  std::memcpy(static_cast<unsigned char*>(out.e_ident), ELFMAG, SELFMAG);
  out.e_ident[EI_CLASS] = ELFCLASS64;
  out.e_ident[EI_DATA] = ELFDATA2LSB;
  out.e_machine = EM_X86_64;
  out.e_ehsize = sizeof(Elf64_Ehdr);
  return out;
}

// ELF with one PT_NOTE segment, one PT_LOAD segment that holds `banner`.
inline std::string kernel(const std::string& notes, const std::string& banner) {
  Elf64_Ehdr head = header();
  head.e_type = ET_EXEC;
  head.e_phoff = sizeof(Elf64_Ehdr);
  head.e_phentsize = sizeof(Elf64_Phdr);
  head.e_phnum = 2;
  Elf64_Phdr note_segment{};
  note_segment.p_type = PT_NOTE;
  note_segment.p_offset = sizeof(Elf64_Ehdr) + 2 * sizeof(Elf64_Phdr);
  note_segment.p_filesz = notes.size();
  Elf64_Phdr load{};
  load.p_type = PT_LOAD;
  load.p_offset = note_segment.p_offset + notes.size();
  load.p_filesz = banner.size();
  std::string out;
  append(out, head);
  append(out, note_segment);
  append(out, load);
  return out + notes + banner;
}

inline std::string good_kernel() {
  return kernel(pvh_note(), "....Linux version 6.1.0-test (builder) ....");
}

// A bzImage around `payload`: boot sector and one set-up sector, then 64 bytes, then the payload.
inline std::string bzimage(const std::string& payload, uint16_t version = 0x020f) {
  constexpr size_t kSetupSectors = 1;
  constexpr uint32_t kOffset = 64;
  setup_header head{};
  head.header = 0x53726448;
  head.version = version;
  head.setup_sects = kSetupSectors;
  head.payload_offset = kOffset;
  head.payload_length = static_cast<uint32_t>(payload.size());
  std::string out((kSetupSectors + 1) * 512 + kOffset, '\0');
  std::memcpy(out.data() + offsetof(boot_params, hdr), &head, sizeof(head));
  return out + payload;
}

// A module: nothing but a .modinfo section.
inline std::string module(const std::string& modinfo) {
  const std::string names("\0.modinfo\0.shstrtab\0", 20);
  Elf64_Ehdr head = header();
  head.e_type = ET_REL;
  head.e_shoff = sizeof(Elf64_Ehdr) + modinfo.size() + names.size();
  head.e_shentsize = sizeof(Elf64_Shdr);
  head.e_shnum = 3;
  head.e_shstrndx = 2;
  Elf64_Shdr info{};
  info.sh_name = 1;
  info.sh_type = SHT_PROGBITS;
  info.sh_offset = sizeof(Elf64_Ehdr);
  info.sh_size = modinfo.size();
  Elf64_Shdr strings{};
  strings.sh_name = 10;
  strings.sh_type = SHT_STRTAB;
  strings.sh_offset = info.sh_offset + modinfo.size();
  strings.sh_size = names.size();
  std::string out;
  append(out, head);
  out += modinfo + names;
  append(out, Elf64_Shdr{});
  append(out, info);
  append(out, strings);
  return out;
}

}  // namespace kiln::runtime::fake
