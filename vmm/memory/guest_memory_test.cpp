// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/guest_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

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

class PrivateMapping : public GuestMemoryTest {
 protected:
  void SetUp() override {
    GuestMemoryTest::SetUp();
    const std::string text(2 * kPage + 5, 'f');
    ASSERT_EQ(write(file_.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
    ASSERT_TRUE(memory_.write_object(0x10000 + 2 * kPage, uint32_t{0xcafe}));
  }
  char at(uint64_t address) const { return *memory_.read_object<char>(address); }
  UniqueFd file_{memfd_create("content", MFD_CLOEXEC)};
};

TEST_F(PrivateMapping, TakesThePlaceOfMemory) {
  ASSERT_TRUE(memory_.map_private(0x10000, file_.get(), kPage, kPage));
  EXPECT_EQ(at(0x10000 + kPage - 1), 'f');
  EXPECT_EQ(at(0x10000 + kPage), '\0');
  EXPECT_EQ(*memory_.read_object<uint32_t>(0x10000 + 2 * kPage), 0xcafeU);
}

TEST_F(PrivateMapping, KeepsWritesFromTheFile) {
  ASSERT_TRUE(memory_.map_private(0x10000, file_.get(), 0, kPage));
  ASSERT_TRUE(memory_.write_object(0x10000, 'g'));
  char found = 0;
  ASSERT_EQ(pread(file_.get(), &found, 1, 0), 1);
  EXPECT_EQ(found, 'f');
}

TEST_F(PrivateMapping, MayEndWithTheLastPageOfTheFile) {
  ASSERT_TRUE(memory_.map_private(0x10000, file_.get(), 0, 3 * kPage));
  EXPECT_EQ(at(0x10000 + 2 * kPage + 4), 'f');
  EXPECT_EQ(at(0x10000 + 2 * kPage + 5), '\0');
  EXPECT_FALSE(memory_.map_private(0x10000, file_.get(), 0, 4 * kPage));
  EXPECT_FALSE(memory_.map_private(0x10000, file_.get(), 3 * kPage, kPage));
  EXPECT_FALSE(memory_.map_private(0x10000, file_.get(), UINT64_MAX - kPage + 1, kPage));
}

TEST_F(PrivateMapping, StaysInsideARegion) {
  EXPECT_FALSE(memory_.map_private(0x10000 + 3 * kPage, file_.get(), 0, 2 * kPage));
  EXPECT_FALSE(memory_.map_private(0xf000, file_.get(), 0, kPage));
  EXPECT_FALSE(memory_.map_private(UINT64_MAX - kPage + 1, file_.get(), 0, 2 * kPage));
  EXPECT_FALSE(memory_.map_private(0x10000, file_.get(), 0, 0));
}

TEST_F(PrivateMapping, IsMadeOfWholePages) {
  EXPECT_FALSE(memory_.map_private(0x10000, file_.get(), 0, 100));
  EXPECT_FALSE(memory_.map_private(0x10000, file_.get(), 8, kPage));
  EXPECT_FALSE(memory_.map_private(0x10008, file_.get(), 0, kPage));
}

TEST_F(PrivateMapping, IsRefusedWherePagesAreLarger) {
  void* mapping = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  GuestMemory::Region region{0x400000, kPage};
  region.host = static_cast<std::byte*>(mapping);
  region.mapping = mapping;
  region.mapping_size = kPage;
  region.page_size = 2U << 20;
  ASSERT_TRUE(memory_.adopt_region(region));
  EXPECT_EQ(memory_.map_private(0x400000, file_.get(), 0, kPage).error().kind,
            ErrorKind::kInvalidArgument);
}

TEST_F(PrivateMapping, IsOfRegularFilesAlone) {
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
  const UniqueFd reader(ends[0]);
  const UniqueFd writer(ends[1]);
  EXPECT_FALSE(memory_.map_private(0x10000, reader.get(), 0, kPage));
  EXPECT_FALSE(memory_.map_private(0x10000, -1, 0, kPage));
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
