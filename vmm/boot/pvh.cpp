// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/pvh.h"

#include <array>
#include <cstddef>
#include <vector>

#include "base/bytes.h"
#include "base/format.h"
#include "vmm/kvm/layout.h"

namespace kiln::vmm {
namespace {

// public/arch-x86/hvm/start_info.h
constexpr uint32_t kStartMagic = 0x336ec578;
constexpr uint32_t kStartVersion = 1;  // the first with a memory map
struct StartInfo {
  uint32_t magic = kStartMagic;
  uint32_t version = kStartVersion;
  uint32_t flags = 0;
  uint32_t nr_modules = 0;
  uint64_t modlist_paddr = 0;
  uint64_t cmdline_paddr = 0;
  uint64_t rsdp_paddr = 0;
  uint64_t memmap_paddr = 0;
  uint32_t memmap_entries = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(StartInfo) == 56);

struct Module {
  uint64_t paddr = 0;
  uint64_t size = 0;
  uint64_t cmdline_paddr = 0;
  uint64_t reserved = 0;
};
static_assert(sizeof(Module) == 32);

struct MemoryMapEntry {
  uint64_t addr = 0;
  uint64_t size = 0;
  uint32_t type = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(MemoryMapEntry) == 24);
constexpr uint32_t kRam = 1;  // the types of E820
constexpr uint32_t kReserved = 2;

constexpr uint64_t kModuleList = layout::kStartInfo + sizeof(StartInfo);
constexpr uint64_t kMemoryMap = kModuleList + sizeof(Module);
// From here to 1 MiB a PC has its video memory and firmware: kernels use nothing of it, whatever
// the map says.
constexpr uint64_t kLegacyHole = 0xa'0000;
static_assert(kMemoryMap + (GuestMemory::kMaxRegions + 2) * sizeof(MemoryMapEntry) <=
              layout::kCommandLine);
static_assert(layout::kCommandLine + layout::kMaxCommandLine <= kLegacyHole);

// A segment descriptor: base 0, present, ring 0.
constexpr uint64_t descriptor(uint8_t type, bool code_or_data, uint32_t limit, uint8_t flags) {
  const uint64_t access = 0x80U | (code_or_data ? 0x10U : 0U) | type;
  return (limit & 0xffffU) | access << 40 | uint64_t{limit >> 16 & 0xfU} << 48 |
         uint64_t{flags} << 52;
}
constexpr uint8_t kCodeType = 0xb;  // executable, readable, accessed
constexpr uint8_t kDataType = 0x3;  // writable, accessed
constexpr uint8_t kTssType = 0xb;   // 32-bit, busy
constexpr uint8_t kFlat = 0xc;      // 32-bit, limit in pages
constexpr uint16_t kCodeSelector = 0x8;
constexpr uint16_t kDataSelector = 0x10;
constexpr uint16_t kTssSelector = 0x18;
constexpr uint32_t kTssLimit = 0x67;
constexpr std::array<uint64_t, 4> kGdt = {
    0,
    descriptor(kCodeType, true, 0xf'ffff, kFlat),
    descriptor(kDataType, true, 0xf'ffff, kFlat),
    descriptor(kTssType, false, kTssLimit, 0),
};

constexpr uint64_t kCr0Pe = 1U << 0;
constexpr uint64_t kCr0Et = 1U << 4;          // always set in a CPU of today
constexpr uint64_t kFlagsReserved = 1U << 1;  // always set

kvm_segment flat_segment(uint16_t selector, uint8_t type) {
  kvm_segment out{};
  out.limit = 0xffff'ffff;
  out.selector = selector;
  out.type = type;
  out.present = 1;
  out.s = 1;   // code or data
  out.db = 1;  // 32-bit
  out.g = 1;
  return out;
}

std::vector<MemoryMapEntry> memory_map(const GuestMemory& memory, bool acpi) {
  std::vector<MemoryMapEntry> map;
  for (const GuestMemory::Region& region : memory.regions()) {
    if (region.guest_address != 0) {
      map.push_back({region.guest_address, region.size, kRam});
      continue;
    }
    map.push_back({0, kLegacyHole, kRam});
    if (acpi) map.push_back({layout::kAcpi, layout::kAcpiEnd - layout::kAcpi, kReserved});
    map.push_back({layout::kHighMemory, region.size - layout::kHighMemory, kRam});
  }
  return map;
}

Result<void> write_command_line(const GuestMemory& memory, const std::string& text) {
  if (text.find('\0') != std::string::npos)
    return invalid_argument("the kernel's command line holds a NUL");
  if (text.size() >= layout::kMaxCommandLine)
    return invalid_argument(format("the kernel's command line is too long: {} bytes of {}",
                                   text.size(), layout::kMaxCommandLine - 1));
  // With its NUL.
  return memory.write(layout::kCommandLine, as_bytes({text.c_str(), text.size() + 1}));
}

}  // namespace

Result<void> write_pvh_boot(const GuestMemory& memory, const PvhBoot& boot) {
  // The map's entries are made of it.
  if (memory.contiguous(0, layout::kHighMemory + 1) <= layout::kHighMemory)
    return make_error(ErrorKind::kOutOfRange, "there is no memory beyond 1 MiB");
  StartInfo info;
  info.cmdline_paddr = layout::kCommandLine;
  info.rsdp_paddr = boot.rsdp_address;
  if (boot.initramfs_size != 0) {
    if (!memory.contains(boot.initramfs_address, boot.initramfs_size))
      return make_error(ErrorKind::kOutOfRange, "the initramfs is not in memory");
    info.nr_modules = 1;
    info.modlist_paddr = kModuleList;
    TRY(memory.write_object(kModuleList, Module{boot.initramfs_address, boot.initramfs_size}));
  }
  const auto map = memory_map(memory, boot.rsdp_address != 0);
  info.memmap_paddr = kMemoryMap;
  info.memmap_entries = static_cast<uint32_t>(map.size());
  TRY(memory.write(kMemoryMap, std::as_bytes(std::span(map))));
  TRY(write_command_line(memory, boot.command_line));
  TRY(memory.write_object(layout::kGdt, kGdt));
  return memory.write_object(layout::kStartInfo, info);
}

void set_pvh_state(uint32_t entry, kvm_regs& regs, kvm_sregs& sregs) {
  // docs/misc/pvh.pandoc: 32-bit protected mode without paging, flat segments, a TSS, interrupts
  // off, ebx says where the start info is.
  regs = {};
  regs.rip = entry;
  regs.rbx = layout::kStartInfo;
  regs.rflags = kFlagsReserved;
  sregs.cs = flat_segment(kCodeSelector, kCodeType);
  sregs.ds = flat_segment(kDataSelector, kDataType);
  sregs.es = sregs.fs = sregs.gs = sregs.ss = sregs.ds;
  sregs.tr = {};
  sregs.tr.limit = kTssLimit;
  sregs.tr.selector = kTssSelector;
  sregs.tr.type = kTssType;
  sregs.tr.present = 1;
  sregs.ldt = {};
  sregs.ldt.unusable = 1;
  sregs.gdt = {};
  sregs.gdt.base = layout::kGdt;
  sregs.gdt.limit = sizeof(kGdt) - 1;
  sregs.idt = {};
  sregs.cr0 = kCr0Pe | kCr0Et;
  sregs.cr2 = sregs.cr3 = sregs.cr4 = 0;
  sregs.efer = 0;
}

}  // namespace kiln::vmm
