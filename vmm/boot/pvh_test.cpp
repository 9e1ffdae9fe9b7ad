// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/pvh.h"

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <tuple>
#include <vector>

#include "vmm/kvm/layout.h"
#include "vmm/memory/guest_ram.h"

namespace kiln::vmm {
namespace {

template <typename T>
T at(const GuestMemory& memory, uint64_t address) {
  return memory.read_object<T>(address).value();
}

std::string c_string_at(const GuestMemory& memory, uint64_t address) {
  std::string out(layout::kMaxCommandLine, '\0');
  EXPECT_TRUE(memory.read(address, std::as_writable_bytes(std::span(out.data(), out.size()))));
  return out.c_str();
}

// address, size, type
using MapEntry = std::tuple<uint64_t, uint64_t, uint32_t>;
std::vector<MapEntry> map_of(const GuestMemory& memory) {
  const auto address = at<uint64_t>(memory, layout::kStartInfo + 40);
  std::vector<MapEntry> map;
  for (uint32_t i = 0; i < at<uint32_t>(memory, layout::kStartInfo + 48); ++i)
    map.emplace_back(at<uint64_t>(memory, address + i * 24),
                     at<uint64_t>(memory, address + i * 24 + 8),
                     at<uint32_t>(memory, address + i * 24 + 16));
  return map;
}

TEST(Pvh, StartInfoTellsTheGuestWhatThereIs) {
  GuestMemory memory;
  ASSERT_TRUE(map_ram(memory, {64}));
  ASSERT_TRUE(write_pvh_boot(memory, {"quiet panic=-1", 0x3000000, 12345, layout::kAcpi}));
  EXPECT_EQ(at<uint32_t>(memory, layout::kStartInfo), 0x336ec578U);
  EXPECT_EQ(at<uint32_t>(memory, layout::kStartInfo + 4), 1U);   // version
  EXPECT_EQ(at<uint32_t>(memory, layout::kStartInfo + 8), 0U);   // flags
  EXPECT_EQ(at<uint32_t>(memory, layout::kStartInfo + 12), 1U);  // modules
  const auto module = at<uint64_t>(memory, layout::kStartInfo + 16);
  EXPECT_EQ(at<uint64_t>(memory, module), 0x3000000U);
  EXPECT_EQ(at<uint64_t>(memory, module + 8), 12345U);
  EXPECT_EQ(at<uint64_t>(memory, module + 16), 0U);  // it has no command line
  EXPECT_EQ(c_string_at(memory, at<uint64_t>(memory, layout::kStartInfo + 24)), "quiet panic=-1");
  EXPECT_EQ(at<uint64_t>(memory, layout::kStartInfo + 32), layout::kAcpi);
}

TEST(Pvh, MemoryMapLeavesOutTheHoles) {
  GuestMemory memory;
  ASSERT_TRUE(map_ram(memory, {4096}));
  ASSERT_TRUE(write_pvh_boot(memory, {"", 0, 0, layout::kAcpi}));
  const std::vector<MapEntry> expected = {{0, 0xa'0000, 1},
                                          {0xe'0000, 0x2'0000, 2},
                                          {0x10'0000, 0xc000'0000 - 0x10'0000, 1},
                                          {0x1'0000'0000, 0x4000'0000, 1}};
  EXPECT_EQ(map_of(memory), expected);
}

TEST(Pvh, NothingIsReservedOrNamedThatIsNotThere) {
  GuestMemory memory;
  ASSERT_TRUE(map_ram(memory, {64}));
  ASSERT_TRUE(write_pvh_boot(memory, {"", 0, 0, 0}));
  const std::vector<MapEntry> expected = {{0, 0xa'0000, 1}, {0x10'0000, 63U << 20, 1}};
  EXPECT_EQ(map_of(memory), expected);
  EXPECT_EQ(at<uint32_t>(memory, layout::kStartInfo + 12), 0U);
  EXPECT_EQ(at<uint64_t>(memory, layout::kStartInfo + 16), 0U);
  EXPECT_EQ(at<uint64_t>(memory, layout::kStartInfo + 32), 0U);
}

TEST(Pvh, CommandLineIsBounded) {
  GuestMemory memory;
  ASSERT_TRUE(map_ram(memory, {64}));
  const std::string longest(layout::kMaxCommandLine - 1, 'x');
  ASSERT_TRUE(write_pvh_boot(memory, {longest, 0, 0, 0}));
  EXPECT_EQ(c_string_at(memory, layout::kCommandLine), longest);
  EXPECT_EQ(write_pvh_boot(memory, {longest + "x", 0, 0, 0}).error().kind,
            ErrorKind::kInvalidArgument);
  EXPECT_EQ(write_pvh_boot(memory, {std::string("a\0b", 3), 0, 0, 0}).error().kind,
            ErrorKind::kInvalidArgument);
}

TEST(Pvh, WantsMemoryForWhatItTells) {
  GuestMemory tiny;
  ASSERT_TRUE(map_ram(tiny, {1}));
  EXPECT_EQ(write_pvh_boot(tiny, {"", 0, 0, 0}).error().kind, ErrorKind::kOutOfRange);
  GuestMemory memory;
  ASSERT_TRUE(map_ram(memory, {64}));
  EXPECT_EQ(write_pvh_boot(memory, {"", 64U << 20, 1, 0}).error().kind, ErrorKind::kOutOfRange);
}

TEST(Pvh, CpuStartsFlatInProtectedMode) {
  kvm_regs regs{};
  kvm_sregs sregs{};
  regs.rax = 77;
  sregs.apic_base = 0xfee00900;
  sregs.cr4 = 1;
  sregs.efer = 0x500;
  set_pvh_state(0x1000850, regs, sregs);
  EXPECT_EQ(regs.rip, 0x1000850U);
  EXPECT_EQ(regs.rbx, layout::kStartInfo);
  EXPECT_EQ(regs.rflags, 2U);
  EXPECT_EQ(regs.rax, 0U);
  EXPECT_EQ(sregs.cr0, 0x11U);
  EXPECT_EQ(sregs.cr4, 0U);
  EXPECT_EQ(sregs.efer, 0U);
  EXPECT_EQ(sregs.apic_base, 0xfee00900U);
  EXPECT_EQ(sregs.cs.type, 0xb);
  EXPECT_EQ(sregs.tr.type, 0xb);
  EXPECT_EQ(sregs.tr.limit, 0x67U);
  EXPECT_EQ(sregs.tr.s, 0);
  for (const kvm_segment* segment : {&sregs.ds, &sregs.es, &sregs.ss}) {
    EXPECT_EQ(segment->base, 0U);
    EXPECT_EQ(segment->limit, 0xffff'ffffU);
    EXPECT_EQ(segment->type, 3);
    EXPECT_EQ(segment->db, 1);
    EXPECT_EQ(segment->g, 1);
  }
}

// Whoever reloads a selector gets what was there before.
TEST(Pvh, GdtAgreesWithTheSegments) {
  GuestMemory memory;
  ASSERT_TRUE(map_ram(memory, {64}));
  ASSERT_TRUE(write_pvh_boot(memory, {"", 0, 0, 0}));
  kvm_regs regs{};
  kvm_sregs sregs{};
  set_pvh_state(0x1000850, regs, sregs);
  EXPECT_EQ(sregs.gdt.base, layout::kGdt);
  EXPECT_EQ(sregs.gdt.limit, 4 * 8 - 1);
  EXPECT_EQ(at<uint64_t>(memory, layout::kGdt), 0U);
  EXPECT_EQ(at<uint64_t>(memory, layout::kGdt + sregs.cs.selector), 0x00cf9b000000ffffU);
  EXPECT_EQ(at<uint64_t>(memory, layout::kGdt + sregs.ds.selector), 0x00cf93000000ffffU);
  EXPECT_EQ(at<uint64_t>(memory, layout::kGdt + sregs.tr.selector), 0x00008b0000000067U);
}

}  // namespace
}  // namespace kiln::vmm
