// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/guest_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <string>

namespace kiln::vmm {
namespace {

constexpr uint64_t kPage = 4096;

class GuestMemoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(memory_.map_anonymous(0x10000, 4 * kPage));
    ASSERT_TRUE(memory_.map_anonymous(0x10000 + 4 * kPage, kPage));  // right behind it
    ASSERT_TRUE(memory_.map_anonymous(0x100000, kPage));
  }
  GuestMemory memory_;
};

TEST_F(GuestMemoryTest, ReadsWhatWasWritten) {
  ASSERT_TRUE(memory_.write_object(0x10008, uint32_t{0xcafe}));
  EXPECT_EQ(*memory_.read_object<uint32_t>(0x10008), 0xcafeU);
}

TEST_F(GuestMemoryTest, ContainsWholeRangesOfOneRegionAlone) {
  EXPECT_TRUE(memory_.contains(0x10000, 4 * kPage));
  EXPECT_FALSE(memory_.contains(0x10000, 4 * kPage + 1));
  EXPECT_FALSE(memory_.contains(0xffff, 2));
  EXPECT_FALSE(memory_.contains(UINT64_MAX, 2));
  EXPECT_FALSE(memory_.contains(0x10000, UINT64_MAX));
}

TEST_F(GuestMemoryTest, SaysHowMuchLiesInOneRegion) {
  EXPECT_EQ(memory_.contiguous(0x10000 + 3 * kPage, 2 * kPage), kPage);
  EXPECT_EQ(memory_.contiguous(0x10000, 10), 10U);
  EXPECT_EQ(memory_.contiguous(0x5000, 10), 0U);
}

TEST_F(GuestMemoryTest, RefusesWhatIsOutside) {
  std::array<std::byte, 8> bytes{};
  EXPECT_EQ(memory_.read(0x100000 + kPage - 4, bytes).error().kind, ErrorKind::kOutOfRange);
  EXPECT_EQ(memory_.write(0, bytes).error().kind, ErrorKind::kOutOfRange);
  EXPECT_FALSE(memory_.window(0x10000, 5 * kPage));
  EXPECT_FALSE(memory_.iovec_of({0x10000 + 4 * kPage, 2 * kPage}));
}

TEST_F(GuestMemoryTest, CopiesFromAndToTheSumOfRanges) {
  const std::array<GuestRange, 2> ranges = {GuestRange{0x10000, 3}, GuestRange{0x100000, 4}};
  const std::string text = "abcdef";
  ASSERT_TRUE(memory_.write_ranges(ranges, 1, std::as_bytes(std::span(text.data(), text.size()))));
  std::string back(6, '\0');
  ASSERT_TRUE(
      memory_.read_ranges(ranges, 1, std::as_writable_bytes(std::span(back.data(), back.size()))));
  EXPECT_EQ(back, text);
  std::array<std::byte, 7> more{};
  EXPECT_EQ(memory_.read_ranges(ranges, 1, more).error().kind, ErrorKind::kOutOfRange);
}

TEST_F(GuestMemoryTest, MakesIovecsOfAPartOfRanges) {
  const std::array<GuestRange, 2> ranges = {GuestRange{0x10000, 100}, GuestRange{0x100000, 100}};
  std::vector<iovec> parts;
  ASSERT_TRUE(memory_.append_iovecs(ranges, 40, 80, parts));
  ASSERT_EQ(parts.size(), 2U);
  EXPECT_EQ(parts[0].iov_len, 60U);
  EXPECT_EQ(parts[1].iov_len, 20U);
}

TEST_F(GuestMemoryTest, RefusesRegionsThatOverlapOrWrap) {
  EXPECT_FALSE(memory_.map_anonymous(0x10000 + kPage, kPage));
  EXPECT_FALSE(memory_.map_anonymous(UINT64_MAX - kPage + 1, 2 * kPage));
  EXPECT_FALSE(memory_.map_anonymous(0x200000, 0));
}

TEST_F(GuestMemoryTest, KeepsTheFileOfARegionForWhoSharesIt) {
  UniqueFd file(memfd_create("guest", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(file.get(), 2 * kPage), 0);
  GuestMemory memory;
  ASSERT_TRUE(memory.map_region(file, kPage, 0, kPage, 0));
  file.reset();
  const GuestMemory::Region region = memory.regions()[0];
  EXPECT_EQ(region.fd_offset, kPage);
  ASSERT_TRUE(memory.write_object(0, uint32_t{0xcafe}));
  uint32_t seen = 0;
  ASSERT_EQ(pread(region.fd, &seen, sizeof seen, static_cast<off_t>(region.fd_offset)), 4);
  EXPECT_EQ(seen, 0xcafeU);
  EXPECT_EQ(memory_.regions()[0].fd, -1);  // anonymous
}

TEST_F(GuestMemoryTest, RefusesAFileThatIsTooShort) {
  const UniqueFd file(memfd_create("short", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(file.get(), kPage), 0);
  EXPECT_FALSE(memory_.map_region(file, 0, 0x200000, 2 * kPage, 0));
  EXPECT_FALSE(memory_.map_region(file, UINT64_MAX - 100, 0x200000, kPage, 0));
  EXPECT_TRUE(memory_.map_region(file, 0, 0x200000, kPage, 0x7000));
  EXPECT_EQ(*memory_.guest_address_of_user(0x7010), 0x200010U);
  EXPECT_FALSE(memory_.guest_address_of_user(0x7000 + kPage));
}

TEST_F(GuestMemoryTest, BoundsTheNumberOfRegions) {
  GuestMemory memory;
  for (size_t i = 0; i < GuestMemory::kMaxRegions; ++i)
    ASSERT_TRUE(memory.map_anonymous(i * 0x10000, kPage));
  EXPECT_FALSE(memory.map_anonymous(0x10000000, kPage));
}

}  // namespace
}  // namespace kiln::vmm
