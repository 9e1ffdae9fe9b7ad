// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/block/block_device.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <random>

#include "tests/support/fake_driver.h"

namespace kiln::vmm {
namespace {

constexpr uint64_t kSectors = 256;
constexpr uint32_t kSector = 512;
constexpr uint16_t kQueue = 256;
constexpr uint8_t kUntouched = 0xee;

UniqueFd temporary_file(uint64_t size) {
  std::string path = std::filesystem::temp_directory_path() / "kiln-block-test-XXXXXX";
  UniqueFd fd(mkostemp(path.data(), O_CLOEXEC));
  unlink(path.c_str());
  EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(size)), 0);
  return fd;
}

// The same open file, as one process hands it to another, or open anew with other flags.
UniqueFd open_again(const UniqueFd& fd, int flags) {
  return UniqueFd(open(("/proc/self/fd/" + std::to_string(fd.get())).c_str(), flags | O_CLOEXEC));
}

std::string file_text(const UniqueFd& fd, uint64_t offset, size_t size) {
  std::string text(size, '?');
  EXPECT_EQ(pread(fd.get(), text.data(), size, static_cast<off_t>(offset)),
            static_cast<ssize_t>(size));
  return text;
}

struct Segment {
  uint64_t sector = 0;
  uint32_t count = 0;
  uint32_t flags = 0;
};

// Every test runs with the ring and without.
class VirtioBlock : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    loop_ = std::move(*EventLoop::create());
    file_ = temporary_file(kSectors * kSector);
    const std::string text(kSectors * kSector, 'a');
    ASSERT_EQ(pwrite(file_.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
    header_ = guest_.allocate(4096);
    data_ = guest_.allocate(1U << 20);
    status_ = guest_.allocate(4096);
    make({});
  }
  void TearDown() override { device_.reset(); }

  void make(BlockOptions options) {
    options.file = open_again(file_, options.read_only ? O_RDONLY : O_RDWR);
    options.serial = "a-serial-number-of-too-many-bytes";
    options.use_io_uring = GetParam();
    auto device = BlockDevice::create(*loop_, std::move(options));
    ASSERT_TRUE(device) << device.error().message;
    device_ = std::move(*device);
    if (GetParam() && !device_->uses_io_uring()) GTEST_SKIP() << "this host has no io_uring";
    activate(device_->features());
  }
  void activate(uint64_t features) {
    Activation activation;
    activation.memory = guest_.memory();
    activation.queues = {queue_.get()};
    activation.acked_features = features;
    activation.interrupt = [this](unsigned) { ++interrupts_; };
    activation.broken = [this](unsigned, const Error&) { broken_ = true; };
    ASSERT_TRUE(device_->activate(std::move(activation)));
  }
  // A driver that cannot flush: every write must be stable, and so goes through the ring.
  void activate_without_flush() { activate(0); }

  uint16_t send(uint32_t type, uint64_t sector, const std::vector<FakeBuffer>& data) {
    virtio_blk_outhdr header{};
    header.type = type;
    header.sector = sector;
    guest_.put(header_, header);
    guest_.put(status_, kUntouched);
    std::vector<FakeBuffer> chain = {{header_, sizeof header, false}};
    chain.insert(chain.end(), data.begin(), data.end());
    chain.push_back({status_, 1, true});
    return driver_.add_chain(chain);
  }
  // Until `count` requests were given back; the last one's written length.
  uint32_t wait(size_t count = 1) {
    uint32_t length = UINT32_MAX;
    for (int turns = 0; count != 0 && turns < 5000; ++turns) {
      while (const auto used = driver_.next_used()) {
        length = used->len;
        --count;
      }
      if (count == 0) break;
      EXPECT_TRUE(loop_->run_once(10));
    }
    EXPECT_EQ(count, 0U) << "requests were not given back";
    return length;
  }
  uint8_t request(uint32_t type, uint64_t sector, const std::vector<FakeBuffer>& data) {
    send(type, sector, data);
    EXPECT_TRUE(device_->process_queue(0));
    length_ = wait();
    return guest_.get<uint8_t>(status_);
  }
  uint8_t read(uint64_t sector, uint32_t size) {
    return request(VIRTIO_BLK_T_IN, sector, {{data_, size, true}});
  }
  uint8_t write(uint64_t sector, const std::string& text) {
    guest_.put_text(data_, text);
    return request(VIRTIO_BLK_T_OUT, sector, {{data_, static_cast<uint32_t>(text.size()), false}});
  }
  uint8_t ranges(uint32_t type, const std::vector<Segment>& segments) {
    for (size_t i = 0; i < segments.size(); ++i) {
      virtio_blk_discard_write_zeroes raw{};
      raw.sector = segments[i].sector;
      raw.num_sectors = segments[i].count;
      raw.flags = segments[i].flags;
      guest_.put(data_ + i * sizeof raw, raw);
    }
    return request(type, 0, {{data_, static_cast<uint32_t>(segments.size() * 16), false}});
  }
  virtio_blk_config config() const {
    virtio_blk_config out{};
    device_->read_config(0, std::as_writable_bytes(std::span(&out, 1)));
    return out;
  }
  blkcnt_t blocks() const {
    struct stat status {};
    EXPECT_EQ(fstat(file_.get(), &status), 0);
    return status.st_blocks;
  }

  FakeGuest guest_;
  FakeDriver driver_{guest_, kQueue};
  std::unique_ptr<Queue> queue_ = driver_.queue();
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<BlockDevice> device_;
  UniqueFd file_;
  uint64_t header_ = 0;
  uint64_t data_ = 0;
  uint64_t status_ = 0;
  uint32_t length_ = 0;
  int interrupts_ = 0;
  bool broken_ = false;
};

INSTANTIATE_TEST_SUITE_P(Ring, VirtioBlock, ::testing::Bool(), [](const auto& information) {
  return information.param ? "io_uring" : "without";
});

TEST_P(VirtioBlock, ReadReturnsTheFilesBytes) {
  ASSERT_EQ(pwrite(file_.get(), "here", 4, 3 * kSector), 4);
  EXPECT_EQ(read(3, 2 * kSector), VIRTIO_BLK_S_OK);
  EXPECT_EQ(guest_.get_text(data_, 6), "hereaa");
  EXPECT_EQ(length_, 2 * kSector + 1);
  EXPECT_GT(interrupts_, 0);
}

TEST_P(VirtioBlock, ReadFillsBuffersOfAnySizeInOrder) {
  ASSERT_EQ(pwrite(file_.get(), "0123456789", 10, 0), 10);
  EXPECT_EQ(request(VIRTIO_BLK_T_IN, 0,
                    {{data_ + 8000, 3, true}, {data_ + 4000, 4, true}, {data_, 505, true}}),
            VIRTIO_BLK_S_OK);
  EXPECT_EQ(guest_.get_text(data_ + 8000, 3), "012");
  EXPECT_EQ(guest_.get_text(data_ + 4000, 4), "3456");
  EXPECT_EQ(guest_.get_text(data_, 5), "789aa");
}

TEST_P(VirtioBlock, WriteReachesTheFile) {
  EXPECT_EQ(write(kSectors - 1, std::string(kSector, 'w')), VIRTIO_BLK_S_OK);
  EXPECT_EQ(file_text(file_, (kSectors - 1) * kSector, kSector), std::string(kSector, 'w'));
  EXPECT_EQ(length_, 1U);
  EXPECT_EQ(device_->metrics().bytes_from_guest, kSector);
  EXPECT_EQ(device_->metrics().requests, 1U);
}

TEST_P(VirtioBlock, WriteOfADriverThatCannotFlushReachesTheFile) {
  activate_without_flush();
  EXPECT_EQ(write(0, std::string(kSector, 'w')), VIRTIO_BLK_S_OK);
  EXPECT_EQ(ranges(VIRTIO_BLK_T_WRITE_ZEROES, {{0, 1, 0}}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(file_text(file_, 0, kSector), std::string(kSector, '\0'));
}

TEST_P(VirtioBlock, LongWriteReachesTheFile) {
  ASSERT_EQ(ftruncate(file_.get(), 8 << 20), 0);
  make({});
  // More than is written at once, out of a megabyte of buffers.
  guest_.put_text(data_, std::string(1U << 20, 'l'));
  const FakeBuffer buffer{data_, 1U << 20, false};
  EXPECT_EQ(request(VIRTIO_BLK_T_OUT, 1, {buffer, buffer, buffer}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(file_text(file_, kSector, 3 << 20), std::string(3 << 20, 'l'));
}

TEST_P(VirtioBlock, WriteToReadOnlyDiskReturnsIoErr) {
  BlockOptions options;
  options.read_only = true;
  make(std::move(options));
  EXPECT_EQ(write(0, std::string(kSector, 'w')), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(ranges(VIRTIO_BLK_T_DISCARD, {{0, 1, 0}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(ranges(VIRTIO_BLK_T_WRITE_ZEROES, {{0, 1, 0}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(file_text(file_, 0, kSector), std::string(kSector, 'a'));
  EXPECT_EQ(device_->metrics().failed_requests, 3U);
  EXPECT_EQ(read(0, kSector), VIRTIO_BLK_S_OK);
  EXPECT_EQ(request(VIRTIO_BLK_T_FLUSH, 0, {}), VIRTIO_BLK_S_OK);
}

TEST_P(VirtioBlock, RequestBehindTheEndReturnsIoErr) {
  EXPECT_EQ(read(kSectors, kSector), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(read(kSectors - 1, 2 * kSector), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(read(UINT64_MAX, kSector), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(read(UINT64_MAX / kSector + 1, kSector), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(write(kSectors, std::string(kSector, 'w')), VIRTIO_BLK_S_IOERR);
  struct stat status {};
  ASSERT_EQ(fstat(file_.get(), &status), 0);
  EXPECT_EQ(status.st_size, static_cast<off_t>(kSectors * kSector));
}

TEST_P(VirtioBlock, LengthThatIsNotInSectorsReturnsIoErr) {
  EXPECT_EQ(read(0, kSector + 1), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(write(0, std::string(kSector - 1, 'w')), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(length_, 1U);
  EXPECT_EQ(file_text(file_, 0, 1), "a");
}

TEST_P(VirtioBlock, TransferAboveTheLimitsReturnsIoErr) {
  ASSERT_EQ(ftruncate(file_.get(), 64 << 20), 0);
  make({});
  std::vector<FakeBuffer> buffers(BlockLimits::kMaxTransfer >> 20, {data_, 1U << 20, true});
  buffers.push_back({data_, 768U << 10, true});
  EXPECT_EQ(request(VIRTIO_BLK_T_IN, 0, buffers), VIRTIO_BLK_S_OK);
  buffers.push_back({data_, kSector, true});
  EXPECT_EQ(request(VIRTIO_BLK_T_IN, 0, buffers), VIRTIO_BLK_S_IOERR);
}

TEST_P(VirtioBlock, BuffersOfTheWrongDirectionReturnIoErr) {
  EXPECT_EQ(request(VIRTIO_BLK_T_IN, 0, {{data_, kSector, false}, {data_, kSector, true}}),
            VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(request(VIRTIO_BLK_T_OUT, 0, {{data_, kSector, false}, {data_, kSector, true}}),
            VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(length_, 0U);
}

TEST_P(VirtioBlock, ReadOfNothingReturnsOk) {
  EXPECT_EQ(request(VIRTIO_BLK_T_IN, kSectors, {}), VIRTIO_BLK_S_OK);
}

TEST_P(VirtioBlock, ReadOfATruncatedFileReturnsIoErr) {
  ASSERT_EQ(ftruncate(file_.get(), 10 * kSector), 0);
  EXPECT_EQ(read(9, 2 * kSector), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(length_, kSector);
  EXPECT_EQ(read(20, kSector), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(read(9, kSector), VIRTIO_BLK_S_OK);
}

TEST_P(VirtioBlock, UnknownTypeReturnsUnsupp) {
  EXPECT_EQ(request(99, 0, {}), VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(request(VIRTIO_BLK_T_SECURE_ERASE, 0, {{data_, 16, false}}), VIRTIO_BLK_S_UNSUPP);
}

TEST_P(VirtioBlock, ShortHeaderReturnsIoErr) {
  guest_.put(status_, kUntouched);
  driver_.add_chain({{header_, 15, false}, {status_, 1, true}});
  ASSERT_TRUE(device_->process_queue(0));
  wait();
  EXPECT_EQ(guest_.get<uint8_t>(status_), VIRTIO_BLK_S_IOERR);
}

TEST_P(VirtioBlock, ChainWithoutRoomForAStatusBreaksTheQueue) {
  driver_.add_chain({{header_, 16, false}});
  EXPECT_FALSE(device_->process_queue(0));
  send(VIRTIO_BLK_T_FLUSH, 0, {});
  EXPECT_FALSE(device_->process_queue(0));
  EXPECT_FALSE(driver_.next_used());
}

TEST_P(VirtioBlock, GetIdReturnsTheSerial) {
  EXPECT_EQ(request(VIRTIO_BLK_T_GET_ID, 0, {{data_, 20, true}}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(guest_.get_text(data_, 20), "a-serial-number-of-t");
  EXPECT_EQ(length_, 21U);
  EXPECT_EQ(request(VIRTIO_BLK_T_GET_ID, 0, {{data_, 19, true}}), VIRTIO_BLK_S_IOERR);
}

TEST_P(VirtioBlock, FlushReturnsOk) {
  EXPECT_EQ(request(VIRTIO_BLK_T_FLUSH, 0, {}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(length_, 1U);
}

TEST_P(VirtioBlock, DiscardGivesRoomBack) {
  const blkcnt_t before = blocks();
  EXPECT_EQ(ranges(VIRTIO_BLK_T_DISCARD, {{0, 64, 0}, {128, 64, 0}, {64, 0, 0}}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(blocks(), before - 128);
  EXPECT_EQ(file_text(file_, 63 * kSector, 2 * kSector),
            std::string(kSector, '\0') + std::string(kSector, 'a'));
}

TEST_P(VirtioBlock, WriteZeroesWithUnmapGivesRoomBack) {
  const blkcnt_t before = blocks();
  EXPECT_EQ(ranges(VIRTIO_BLK_T_WRITE_ZEROES, {{8, 64, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP}}),
            VIRTIO_BLK_S_OK);
  EXPECT_EQ(blocks(), before - 64);
  EXPECT_EQ(file_text(file_, 8 * kSector, 64 * kSector), std::string(64 * kSector, '\0'));
}

TEST_P(VirtioBlock, WriteZeroesKeepsRoom) {
  const blkcnt_t before = blocks();
  EXPECT_EQ(ranges(VIRTIO_BLK_T_WRITE_ZEROES, {{7, 64, 0}}), VIRTIO_BLK_S_OK);
  EXPECT_GE(blocks(), before);
  EXPECT_EQ(file_text(file_, 6 * kSector, kSector), std::string(kSector, 'a'));
  EXPECT_EQ(file_text(file_, 7 * kSector, 64 * kSector), std::string(64 * kSector, '\0'));
  EXPECT_EQ(file_text(file_, 71 * kSector, kSector), std::string(kSector, 'a'));
}

TEST_P(VirtioBlock, UnknownRangeFlagsReturnUnsupp) {
  // §5.2.6.2: UNMAP is unknown to a discard.
  EXPECT_EQ(ranges(VIRTIO_BLK_T_DISCARD, {{0, 1, 1}}), VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(ranges(VIRTIO_BLK_T_WRITE_ZEROES, {{0, 1, 2}}), VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(file_text(file_, 0, 1), "a");
}

TEST_P(VirtioBlock, RangesBeyondTheLimitsReturnIoErr) {
  EXPECT_EQ(ranges(VIRTIO_BLK_T_DISCARD, {{kSectors, 1, 0}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(ranges(VIRTIO_BLK_T_DISCARD, {{1, kSectors, 0}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(ranges(VIRTIO_BLK_T_DISCARD, {{UINT64_MAX, 2, 0}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(ranges(VIRTIO_BLK_T_DISCARD, std::vector<Segment>(17, {0, 1, 0})), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(ranges(VIRTIO_BLK_T_WRITE_ZEROES, std::vector<Segment>(2, {0, 1, 0})),
            VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(ranges(VIRTIO_BLK_T_DISCARD, {}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(request(VIRTIO_BLK_T_DISCARD, 0, {{data_, 15, false}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(file_text(file_, 0, kSector), std::string(kSector, 'a'));
  // Longer than max_write_zeroes_sectors, on a disk that is.
  ASSERT_EQ(ftruncate(file_.get(), 128 << 20), 0);
  make({});
  const uint32_t most = config().max_write_zeroes_sectors;
  EXPECT_EQ(ranges(VIRTIO_BLK_T_WRITE_ZEROES, {{0, most + 1, 0}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(ranges(VIRTIO_BLK_T_WRITE_ZEROES, {{0, most, 0}}), VIRTIO_BLK_S_OK);
}

TEST_P(VirtioBlock, RateLimiterDelaysWhatIsAboveIt) {
  BlockOptions options;
  options.rate_limiter.ops = {2, 0, 50};
  make(std::move(options));
  for (int i = 0; i < 5; ++i) send(VIRTIO_BLK_T_IN, 0, {{data_, kSector, true}});
  ASSERT_TRUE(device_->process_queue(0));
  EXPECT_GT(device_->metrics().rate_limiter_hits, 0U);
  EXPECT_LT(device_->metrics().requests, 5U);
  wait(5);
  EXPECT_EQ(device_->metrics().requests, 5U);
}

TEST_P(VirtioBlock, SuspendCompletesWhatIsInFlight) {
  activate_without_flush();
  for (int i = 0; i < 20; ++i) send(VIRTIO_BLK_T_OUT, 2, {{data_, kSector, false}});
  ASSERT_TRUE(device_->process_queue(0));
  device_->suspend();
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(driver_.next_used()) << i;
  EXPECT_EQ(guest_.get<uint8_t>(status_), VIRTIO_BLK_S_OK);
  activate(device_->features());
  EXPECT_EQ(read(0, kSector), VIRTIO_BLK_S_OK);
}

TEST_P(VirtioBlock, AfterResetTheGuestsMemoryIsLeftAlone) {
  activate_without_flush();
  for (int i = 0; i < 20; ++i) send(VIRTIO_BLK_T_OUT, 2, {{data_, kSector, false}});
  ASSERT_TRUE(device_->process_queue(0));
  device_->reset();
  while (driver_.next_used()) {
  }
  guest_.put(status_, kUntouched);
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(loop_->run_once(1));
  EXPECT_FALSE(driver_.next_used());
  EXPECT_EQ(guest_.get<uint8_t>(status_), kUntouched);
  activate(device_->features());
  EXPECT_EQ(read(0, kSector), VIRTIO_BLK_S_OK);
}

TEST_P(VirtioBlock, MoreRequestsThanSlotsAreAllAnswered) {
  // With the ring they are to be in flight; without it they are only slow.
  activate(GetParam() ? 0 : device_->features());
  // A driver that does not wait for its chain to come back before it uses it again.
  const uint16_t head = send(VIRTIO_BLK_T_OUT, 2, {{data_, kSector, false}});
  for (int i = 1; i < kQueue; ++i) driver_.publish(head);
  ASSERT_TRUE(device_->process_queue(0));
  for (int i = 0; i < kQueue; ++i) driver_.publish(head);
  ASSERT_TRUE(device_->process_queue(0));
  wait(size_t{2} * kQueue);
  EXPECT_EQ(device_->metrics().requests, 2U * kQueue);
  EXPECT_EQ(device_->metrics().failed_requests, 0U);
}

TEST_P(VirtioBlock, RandomRequestsAgreeWithAModel) {
  std::mt19937 random(7);
  std::string model = file_text(file_, 0, kSectors * kSector);
  for (int i = 0; i < 300; ++i) {
    const uint64_t sector = random() % kSectors;
    const auto count =
        static_cast<uint32_t>(1 + random() % std::min<uint64_t>(kSectors - sector, 9));
    const uint32_t size = count * kSector;
    const uint32_t cut = 1 + random() % (size - 1);
    const std::vector<FakeBuffer> parts = {{data_, cut, false}, {data_ + 65536, size - cut, false}};
    std::vector<FakeBuffer> writable = parts;
    for (FakeBuffer& part : writable) part.writable = true;
    const std::string text(size, static_cast<char>('a' + i % 26));
    guest_.put_text(data_, text.substr(0, cut));
    guest_.put_text(data_ + 65536, text.substr(cut));
    ASSERT_EQ(request(VIRTIO_BLK_T_OUT, sector, parts), VIRTIO_BLK_S_OK);
    model.replace(sector * kSector, size, text);
    const uint64_t other = random() % (kSectors - count);
    ASSERT_EQ(request(VIRTIO_BLK_T_IN, other, writable), VIRTIO_BLK_S_OK);
    ASSERT_EQ(guest_.get_text(data_, cut) + guest_.get_text(data_ + 65536, size - cut),
              model.substr(other * kSector, size));
  }
  EXPECT_EQ(file_text(file_, 0, kSectors * kSector), model);
}

TEST_P(VirtioBlock, ConfigurationTellsTheDisk) {
  const virtio_blk_config seen = config();
  EXPECT_EQ(seen.capacity, kSectors);
  EXPECT_EQ(seen.blk_size, kSector);
  EXPECT_EQ(seen.seg_max, 254U);
  EXPECT_EQ(seen.max_discard_seg, 16U);
  EXPECT_EQ(seen.max_write_zeroes_seg, 1U);
  std::array<std::byte, 8> tail{};
  tail.fill(std::byte{1});
  device_->read_config(sizeof seen - 4, tail);
  EXPECT_EQ(tail, (std::array<std::byte, 8>{}));
  device_->read_config(UINT32_MAX, tail);
  EXPECT_EQ(tail, (std::array<std::byte, 8>{}));
}

TEST_P(VirtioBlock, DriverWritesTheCacheModeAndNothingElse) {
  const std::array<std::byte, sizeof(virtio_blk_config) + 8> zeroes{};
  EXPECT_EQ(config().wce, 1);
  device_->write_config(0, zeroes);
  EXPECT_EQ(config().wce, 0);
  EXPECT_EQ(config().capacity, kSectors);
  constexpr uint32_t kMode = offsetof(virtio_blk_config, wce);
  const std::array<std::byte, 1> one = {std::byte{1}};
  device_->write_config(kMode + 1, one);
  EXPECT_EQ(config().wce, 0);
  device_->write_config(kMode, one);
  EXPECT_EQ(config().wce, 1);
}

TEST_P(VirtioBlock, CacheModeOfADriverThatCannotFlushIsWriteThrough) {
  device_->reset();
  activate(uint64_t{1} << VIRTIO_BLK_F_CONFIG_WCE);
  EXPECT_EQ(config().wce, 0);
  EXPECT_EQ(write(0, std::string(kSector, 'w')), VIRTIO_BLK_S_OK);
}

TEST_P(VirtioBlock, ReadOnlyDiskOffersNothingThatWrites) {
  BlockOptions options;
  options.read_only = true;
  make(std::move(options));
  const uint64_t writing = uint64_t{1} << VIRTIO_BLK_F_DISCARD |
                           uint64_t{1} << VIRTIO_BLK_F_WRITE_ZEROES |
                           uint64_t{1} << VIRTIO_BLK_F_CONFIG_WCE;
  EXPECT_EQ(device_->features() & writing, 0U);
  EXPECT_NE(device_->features() & (1U << VIRTIO_BLK_F_RO), 0U);
  EXPECT_EQ(config().max_discard_sectors, 0U);
}

}  // namespace
}  // namespace kiln::vmm
