// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/guest_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
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

// How many of the pages at `host` are backed by memory.
size_t resident_pages(std::byte* host, size_t count) {
  std::vector<unsigned char> pages(count);
  if (mincore(host, count * kPage, pages.data()) != 0) return SIZE_MAX;
  return static_cast<size_t>(
      std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return page & 1; }));
}

TEST_F(GuestMemoryTest, DiscardsWholePagesAlone) {
  for (uint64_t page = 0; page < 4; ++page)
    ASSERT_TRUE(memory_.write_object(0x10000 + page * kPage, uint32_t{0xcafe}));
  EXPECT_EQ(*memory_.discard(0x10000 + 1, 3 * kPage), 2 * kPage);
  EXPECT_EQ(*memory_.read_object<uint32_t>(0x10000), 0xcafeU);
  EXPECT_EQ(*memory_.read_object<uint32_t>(0x10000 + kPage), 0U);
  EXPECT_EQ(*memory_.read_object<uint32_t>(0x10000 + 2 * kPage), 0U);
  EXPECT_EQ(*memory_.read_object<uint32_t>(0x10000 + 3 * kPage), 0xcafeU);
  EXPECT_EQ(*memory_.discard(0x10000 + 1, kPage), 0U);
}

TEST_F(GuestMemoryTest, RefusesToDiscardWhatIsOutside) {
  EXPECT_EQ(memory_.discard(0x100000, 2 * kPage).error().kind, ErrorKind::kOutOfRange);
  EXPECT_EQ(memory_.discard(0, kPage).error().kind, ErrorKind::kOutOfRange);
  EXPECT_EQ(memory_.discard(0x10000, UINT64_MAX).error().kind, ErrorKind::kOutOfRange);
  // Adjacent, but two regions.
  EXPECT_FALSE(memory_.discard(0x10000 + 3 * kPage, 2 * kPage));
}

TEST(SharedGuestMemory, DiscardedPagesAreGoneFromTheFile) {
  const UniqueFd file(memfd_create("guest", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(file.get(), 8 * kPage), 0);
  const std::vector<std::byte> content(8 * kPage, std::byte{7});
  ASSERT_EQ(pwrite(file.get(), content.data(), content.size(), 0), 8 * kPage);
  GuestMemory memory;
  ASSERT_TRUE(memory.map_region(file, 2 * kPage, 0x40000, 4 * kPage, 0));
  EXPECT_EQ(*memory.discard(0x40000 + kPage, 2 * kPage), 2 * kPage);
  EXPECT_EQ(lseek(file.get(), 0, SEEK_HOLE), 3 * kPage);
  EXPECT_EQ(lseek(file.get(), 3 * kPage, SEEK_DATA), 5 * kPage);
  EXPECT_EQ(*memory.read_object<uint8_t>(0x40000 + kPage), 0U);
  EXPECT_EQ(*memory.read_object<uint8_t>(0x40000), 7U);
  EXPECT_EQ(*memory.read_object<uint8_t>(0x40000 + 3 * kPage), 7U);
}

TEST(SharedGuestMemory, DiscardLeavesPagesAloneThatAreOnlyPartlyOfTheRegion) {
  const UniqueFd file(memfd_create("guest", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(file.get(), 4 * kPage), 0);
  const std::vector<std::byte> content(4 * kPage, std::byte{7});
  ASSERT_EQ(pwrite(file.get(), content.data(), content.size(), 0), 4 * kPage);
  GuestMemory memory;
  ASSERT_TRUE(memory.map_region(file, 16, 0x40010, 2 * kPage, 0));
  EXPECT_EQ(*memory.discard(0x40010, 2 * kPage), kPage);
  EXPECT_EQ(lseek(file.get(), 0, SEEK_HOLE), kPage);
  EXPECT_EQ(lseek(file.get(), kPage, SEEK_DATA), 2 * kPage);
}

// The kernel's image over memory: the guest's own writes go, the file's bytes come back.
TEST(SharedGuestMemory, DiscardDropsTheGuestsCopiesOfAPrivateView) {
  const UniqueFd image(memfd_create("image", MFD_CLOEXEC));
  const std::vector<std::byte> content(kPage, std::byte{9});
  ASSERT_EQ(pwrite(image.get(), content.data(), content.size(), 0), kPage);
  GuestMemory memory;
  ASSERT_TRUE(memory.map_anonymous(0, 4 * kPage));
  std::byte* const host = memory.regions()[0].host;
  ASSERT_NE(
      mmap(host + kPage, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, image.get(), 0),
      MAP_FAILED);
  for (uint64_t page = 0; page < 4; ++page)
    ASSERT_TRUE(memory.write_object(page * kPage, uint8_t{1}));
  EXPECT_EQ(*memory.discard(0, 4 * kPage), 4 * kPage);
  EXPECT_EQ(*memory.read_object<uint8_t>(kPage), 9U);
  EXPECT_EQ(*memory.read_object<uint8_t>(0), 0U);
  EXPECT_EQ(*memory.read_object<uint8_t>(3 * kPage), 0U);
}

TEST_F(GuestMemoryTest, DiscardGivesPagesBackToTheHost) {
  std::byte* const host = memory_.regions()[0].host;
  for (uint64_t page = 0; page < 4; ++page)
    ASSERT_TRUE(memory_.write_object(0x10000 + page * kPage, uint8_t{1}));
  EXPECT_EQ(resident_pages(host, 4), 4U);
  EXPECT_EQ(*memory_.discard(0x10000 + kPage, 2 * kPage), 2 * kPage);
  EXPECT_EQ(resident_pages(host, 4), 2U);
}

}  // namespace
}  // namespace kiln::vmm
