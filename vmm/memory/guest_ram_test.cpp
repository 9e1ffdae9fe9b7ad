// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/guest_ram.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/format.h"

namespace kiln::vmm {
namespace {

using Backing = RamOptions::Backing;
constexpr uint64_t kMib = 1U << 20;
constexpr uint64_t kGib = 1U << 30;

uint64_t resident_pages(const GuestMemory::Region& region) {
  std::vector<unsigned char> pages(region.size / 4096);
  EXPECT_EQ(mincore(region.host, region.size, pages.data()), 0);
  return static_cast<uint64_t>(std::count_if(pages.begin(), pages.end(),
                                             [](unsigned char page) { return (page & 1) != 0; }));
}

TEST(GuestRam, SmallMachineHasOneRegion) {
  GuestMemory memory;
  ASSERT_TRUE(map_ram(memory, {65}));
  ASSERT_EQ(memory.regions().size(), 1U);
  EXPECT_EQ(memory.regions()[0].guest_address, 0U);
  EXPECT_EQ(memory.regions()[0].size, 65 * kMib);
  EXPECT_EQ(memory.regions()[0].fd, -1);
  EXPECT_EQ(*memory.read_object<uint64_t>(65 * kMib - 8), 0U);
  EXPECT_FALSE(memory.contains(65 * kMib, 1));
}

TEST(GuestRam, LargeMachineContinuesBehindTheHole) {
  for (const Backing backing : {Backing::kAnonymous, Backing::kMemfd}) {
    GuestMemory memory;
    ASSERT_TRUE(map_ram(memory, {5 * 1024, backing}));
    ASSERT_EQ(memory.regions().size(), 2U);
    EXPECT_EQ(memory.regions()[0].size, 3 * kGib);
    EXPECT_EQ(memory.regions()[1].guest_address, 4 * kGib);
    EXPECT_EQ(memory.regions()[1].size, 2 * kGib);
    EXPECT_FALSE(memory.contains(3 * kGib, 1));
    EXPECT_TRUE(memory.contains(6 * kGib - 1, 1));
  }
}

TEST(GuestRam, MachineUpToTheHoleHasOneRegion) {
  GuestMemory memory;
  ASSERT_TRUE(map_ram(memory, {3 * 1024}));
  EXPECT_EQ(memory.regions().size(), 1U);
}

TEST(GuestRam, IsAlignedForLargePagesAndNotFaultedIn) {
  for (const Backing backing : {Backing::kAnonymous, Backing::kMemfd}) {
    GuestMemory memory;
    ASSERT_TRUE(map_ram(memory, {3 * 1024 + 64, backing}));
    for (const GuestMemory::Region& region : memory.regions()) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(region.host) % (2 * kMib), 0U);
      EXPECT_EQ(resident_pages(region), 0U);
    }
  }
}

TEST(GuestRam, StaysOutOfCoreDumps) {
  GuestMemory memory;
  ASSERT_TRUE(map_ram(memory, {64}));
  const std::string maps = read_file("/proc/self/smaps").value();
  const auto start = reinterpret_cast<uintptr_t>(memory.regions()[0].host);
  const size_t entry = maps.find(format("{:x}-{:x} ", start, start + 64 * kMib));
  ASSERT_NE(entry, std::string::npos);
  const size_t flags = maps.find("VmFlags:", entry);
  EXPECT_NE(maps.substr(flags, maps.find('\n', flags) - flags).find(" dd"), std::string::npos);
}

TEST(GuestRam, MemfdIsWhatTheGuestSees) {
  GuestMemory memory;
  ASSERT_TRUE(map_ram(memory, {3 * 1024 + 64, Backing::kMemfd}));
  const GuestMemory::Region high = memory.regions()[1];
  EXPECT_EQ(memory.regions()[0].fd_offset, 0U);
  EXPECT_EQ(high.fd, memory.regions()[0].fd);
  EXPECT_EQ(high.fd_offset, 3 * kGib);
  ASSERT_TRUE(memory.write_object(4 * kGib + 8, uint64_t{0x1234}));
  uint64_t found = 0;
  ASSERT_EQ(pread(high.fd, &found, sizeof found, static_cast<off_t>(high.fd_offset + 8)), 8);
  EXPECT_EQ(found, 0x1234U);
}

TEST(GuestRam, MemfdCannotChangeItsSize) {
  GuestMemory memory;
  ASSERT_TRUE(map_ram(memory, {64, Backing::kMemfd}));
  const int fd = memory.regions()[0].fd;
  EXPECT_NE(ftruncate(fd, 0), 0);
  EXPECT_NE(ftruncate(fd, 65 * kMib), 0);
  EXPECT_NE(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
}

TEST(GuestRam, MemfdIsClosedWithTheMemory) {
  int fd = -1;
  {
    GuestMemory memory;
    ASSERT_TRUE(map_ram(memory, {64, Backing::kMemfd}));
    fd = memory.regions()[0].fd;
    EXPECT_TRUE(fcntl(fd, F_GETFD) & FD_CLOEXEC);
  }
  EXPECT_EQ(fcntl(fd, F_GETFD), -1);
}

// 64 GiB of them: no pool has so many.
TEST(GuestRam, SaysThatHugePagesAreLacking) {
  GuestMemory memory;
  const auto result = map_ram(memory, {64 * 1024, Backing::kHugetlbfs});
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().message.find("huge pages"), std::string::npos);
  EXPECT_TRUE(memory.regions().empty());
}

TEST(GuestRam, HugePagesMustBeWhole) {
  GuestMemory memory;
  EXPECT_EQ(map_ram(memory, {65, Backing::kHugetlbfs}).error().kind, ErrorKind::kInvalidArgument);
}

TEST(GuestRam, RefusesSizesThatMakeNoSense) {
  GuestMemory memory;
  EXPECT_EQ(map_ram(memory, {0}).error().kind, ErrorKind::kInvalidArgument);
  EXPECT_EQ(map_ram(memory, {RamOptions::kMaxSizeMib + 1}).error().kind,
            ErrorKind::kInvalidArgument);
  EXPECT_EQ(map_ram(memory, {UINT64_MAX}).error().kind, ErrorKind::kInvalidArgument);
}

TEST(GuestRam, IsMappedOnce) {
  GuestMemory memory;
  ASSERT_TRUE(map_ram(memory, {64}));
  EXPECT_FALSE(map_ram(memory, {64}));
  EXPECT_EQ(memory.regions().size(), 1U);
}

}  // namespace
}  // namespace kiln::vmm
