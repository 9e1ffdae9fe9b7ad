// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/block/block_request.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <filesystem>

#include "tests/support/fake_driver.h"
#include "vmm/virtio/block/write_pace.h"

namespace kiln::vmm {
namespace {

constexpr uint64_t kFileSize = 4U << 20;

std::string temporary_path() {
  return std::filesystem::temp_directory_path() / "kiln-block-file-test-XXXXXX";
}

UniqueFd temporary_file(uint64_t size) {
  std::string path = temporary_path();
  UniqueFd fd(mkostemp(path.data(), O_CLOEXEC));
  unlink(path.c_str());
  EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(size)), 0);
  return fd;
}

UniqueFd open_again(const UniqueFd& fd, int flags) {
  return UniqueFd(open(("/proc/self/fd/" + std::to_string(fd.get())).c_str(), flags | O_CLOEXEC));
}

// A request for one range of a file.
class RangeRequest : public ::testing::Test {
 protected:
  void parse(uint32_t type, uint32_t sectors, uint32_t flags, bool write_through) {
    virtio_blk_outhdr header{};
    header.type = type;
    virtio_blk_discard_write_zeroes range{};
    range.sector = 1;
    range.num_sectors = sectors;
    range.flags = flags;
    const uint64_t at = guest_.allocate(64);
    guest_.put(at, header);
    guest_.put(at + sizeof header, range);
    DescriptorChain chain;
    chain.readable = {{at, 32}};
    chain.readable_size = 32;
    chain.writable = {{at + 32, 1}};
    chain.writable_size = 1;
    ASSERT_TRUE(request_.parse(*guest_.memory(), chain, {kFileSize, false}, write_through));
  }

  FakeGuest guest_;
  UniqueFd fd_ = temporary_file(kFileSize);
  BlockFile file_ = std::move(*BlockFile::open(open_again(fd_, O_RDWR), false));
  BlockRequest request_;
};

TEST_F(RangeRequest, ZeroesAreWrittenWhereTheFileCannotMakeThem) {
  const std::string text(kFileSize, 'a');
  ASSERT_EQ(pwrite(fd_.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  // Not a multiple of the pieces.
  constexpr uint32_t kCount = (3U << 20) / 512 + 7;
  parse(VIRTIO_BLK_T_WRITE_ZEROES, kCount, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP, true);
  EXPECT_EQ(request_.next(file_).flags, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
  EXPECT_FALSE(file_.must_run(request_.current(), -EOPNOTSUPP));
  EXPECT_FALSE(request_.advance(-EOPNOTSUPP));
  EXPECT_EQ(request_.next(file_).flags, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE);
  EXPECT_FALSE(file_.must_run(request_.current(), -EOPNOTSUPP));
  EXPECT_FALSE(request_.advance(-EOPNOTSUPP));
  int writes = 0;
  while (request_.next(file_).kind == BlockIo::Kind::kWrite) {
    ++writes;
    ASSERT_FALSE(request_.advance(file_.run(request_.current())));
  }
  EXPECT_GE(writes, 3);
  // Without a cache they must be stable.
  EXPECT_EQ(request_.current().kind, BlockIo::Kind::kSync);
  EXPECT_TRUE(request_.advance(file_.run(request_.current())));
  EXPECT_EQ(request_.status(), VIRTIO_BLK_S_OK);
  std::string seen(kFileSize, '?');
  ASSERT_EQ(pread(fd_.get(), seen.data(), seen.size(), 0), static_cast<ssize_t>(seen.size()));
  std::string wanted = text;
  wanted.replace(512, kCount * 512, kCount * 512, '\0');
  EXPECT_TRUE(seen == wanted);
}

TEST_F(RangeRequest, DiscardThatTheFileCannotDoReturnsUnsupp) {
  parse(VIRTIO_BLK_T_DISCARD, 8, 0, false);
  request_.next(file_);
  EXPECT_TRUE(request_.advance(-EOPNOTSUPP));
  EXPECT_EQ(request_.status(), VIRTIO_BLK_S_UNSUPP);
}

TEST_F(RangeRequest, FailedRangeReturnsIoErr) {
  parse(VIRTIO_BLK_T_WRITE_ZEROES, 8, 0, false);
  request_.next(file_);
  EXPECT_TRUE(request_.advance(-ENOSPC));
  EXPECT_EQ(request_.status(), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(request_.error(), ENOSPC);
}

TEST_F(RangeRequest, ZeroesCountForTheBandwidth) {
  parse(VIRTIO_BLK_T_WRITE_ZEROES, 8, 0, false);
  EXPECT_EQ(request_.cost(), 8U * 512);
  parse(VIRTIO_BLK_T_DISCARD, 8, 0, false);
  EXPECT_EQ(request_.cost(), 0U);
}

TEST(BlockFile, CapacityIsWholeSectors) {
  const auto file = BlockFile::open(temporary_file(1025), false);
  ASSERT_TRUE(file);
  EXPECT_EQ(file->capacity(), 1024U);
}

TEST(BlockFile, FileSmallerThanASectorIsRefused) {
  EXPECT_FALSE(BlockFile::open(temporary_file(511), false));
}

TEST(BlockFile, WhatIsNoFileIsRefused) {
  EXPECT_FALSE(BlockFile::open(UniqueFd(open("/dev/null", O_RDWR | O_CLOEXEC)), false));
  EXPECT_FALSE(BlockFile::open(UniqueFd(open("/", O_RDONLY | O_CLOEXEC)), true));
  EXPECT_FALSE(BlockFile::open(UniqueFd(), true));
}

TEST(BlockFile, FileThatIsOpenInAnotherWayIsRefused) {
  const UniqueFd fd = temporary_file(4096);
  EXPECT_FALSE(BlockFile::open(open_again(fd, O_RDONLY), false));
  EXPECT_FALSE(BlockFile::open(open_again(fd, O_WRONLY), true));
  EXPECT_FALSE(BlockFile::open(open_again(fd, O_RDWR | O_APPEND), false));
  EXPECT_FALSE(BlockFile::open(open_again(fd, O_PATH), true));
  EXPECT_TRUE(BlockFile::open(open_again(fd, O_RDONLY), true));
}

TEST(BlockFile, NonBlockingFileIsMadeBlocking) {
  const UniqueFd fd = temporary_file(4096);
  UniqueFd other = open_again(fd, O_RDWR | O_NONBLOCK);
  const int number = other.get();
  const auto file = BlockFile::open(std::move(other), false);
  ASSERT_TRUE(file);
  EXPECT_EQ(fcntl(number, F_GETFL) & O_NONBLOCK, 0);
}

TEST(WritePace, WriteThatWaitedIsFollowedByAPauseThatGrows) {
  WritePace pace;
  int64_t now = 1'000'000'000'000;
  EXPECT_TRUE(pace.try_at(now));
  pace.took(true, now);
  EXPECT_FALSE(pace.try_at(now + WritePace::kFirstPause - 1));
  now += WritePace::kFirstPause;
  EXPECT_TRUE(pace.try_at(now));
  pace.took(true, now);
  EXPECT_FALSE(pace.try_at(now + 2 * WritePace::kFirstPause - 1));
  EXPECT_TRUE(pace.try_at(now + 2 * WritePace::kFirstPause));
}

TEST(WritePace, FastWritesEndTheGrowth) {
  WritePace pace;
  pace.took(true, 0);
  const int64_t later = 100 * WritePace::kFirstPause;
  pace.took(false, later);
  pace.took(true, later);
  EXPECT_TRUE(pace.try_at(later + WritePace::kFirstPause));
}

}  // namespace
}  // namespace kiln::vmm
