// SPDX-License-Identifier: Apache-2.0
// A guest that sends a disk what chains it likes, and pauses and resets it in between.
#include <linux/virtio_blk.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "tests/support/fake_driver.h"
#include "vmm/virtio/block/block_device.h"

namespace {

using kiln::ByteReader;
using kiln::EventLoop;
using kiln::UniqueFd;
using namespace kiln::vmm;

constexpr int kMaxSteps = 64;
constexpr uint64_t kSectors = 64;
constexpr size_t kDiskSize = kSectors * 512;
constexpr uint16_t kQueue = 32;
constexpr uint64_t kSlotSize = 64U << 10;

void require(bool holds) {
  if (!holds) abort();
}

// One disk, its driver and what must hold for them.
class Scene {
 public:
  explicit Scene(uint8_t choice)
      : read_only_((choice & 1) != 0),
        before_(kDiskSize, 'd'),
        loop_(std::move(*EventLoop::create())) {
    file_ = UniqueFd(memfd_create("disk", MFD_CLOEXEC));
    require(write(file_.get(), before_.data(), kDiskSize) == static_cast<ssize_t>(kDiskSize));
    BlockOptions options;
    options.file = UniqueFd(dup(file_.get()));
    options.serial = "fuzz";
    options.read_only = read_only_;
    // Workers make a run slow and hard to repeat: a quarter of the inputs have them.
    options.use_io_uring = (choice & 6) == 6;
    if ((choice & 8) != 0) options.rate_limiter.ops = {4, 0, 1};
    features_ = (choice & 16) != 0 ? 0 : ~uint64_t{0};
    device_ = std::move(*BlockDevice::create(*loop_, std::move(options)));
    slots_ = guest_.allocate(kQueue * kSlotSize);
    activate();
  }

  void activate() {
    Activation activation;
    activation.memory = guest_.memory();
    activation.queues = {queue_.get()};
    activation.acked_features = features_;
    activation.interrupt = [](unsigned) {};
    activation.broken = [](unsigned, const kiln::Error&) {};
    require(device_->activate(std::move(activation)).has_value());
  }

  // A chain whose parts mostly are in the order that a request has.
  void send(uint8_t choice, ByteReader& input) {
    const uint64_t at = slots_ + (published_ % kQueue) * kSlotSize;
    auto header = input.read<virtio_blk_outhdr>().value_or(virtio_blk_outhdr{});
    if (choice % 4 != 0) {
      header.type %= 16;
      header.sector %= kSectors + 2;
    }
    guest_.put(at, header);
    const uint64_t data = at + 4096;
    for (size_t i = 0; i < 3; ++i) {
      auto range = input.read<virtio_blk_discard_write_zeroes>();
      if (!range) break;
      if (choice % 4 != 0) {
        range->sector %= kSectors + 1;
        range->num_sectors %= kSectors + 1;
        range->flags %= 4;
      }
      guest_.put(data + i * sizeof *range, *range);
    }
    std::vector<FakeBuffer> chain = {{at, choice % 16 == 7 ? 15U : 16U, false}};
    const size_t parts = input.read<uint8_t>().value_or(1) % 6;
    bool writable = header.type == VIRTIO_BLK_T_IN || header.type == VIRTIO_BLK_T_GET_ID;
    for (size_t i = 0; i < parts; ++i) {
      const auto length = input.read<uint16_t>().value_or(512);
      const uint32_t size = choice % 8 == 5 ? length : (length % 8 + 1) * (writable ? 512 : 16);
      if (size != 0) chain.push_back({data + i * 8192, std::min(size, 8192U), writable});
    }
    if (choice % 32 != 9) chain.push_back({at + 2048, 1, true});
    guest_.put(at + 2048, uint8_t{0xee});
    driver_.add_chain(chain);
    ++published_;
  }

  void step(uint8_t choice, ByteReader& input) {
    if (choice < 200) {
      send(choice, input);
      if (choice % 3 != 0) static_cast<void>(device_->process_queue(0));
    } else if (choice < 210) {
      const std::vector<std::byte> bytes(choice % 4, std::byte{choice});
      device_->write_config(input.read<uint8_t>().value_or(0), bytes);
    } else if (choice < 230) {
      require(loop_->run_once(choice < 220 ? 0 : 1).has_value());
    } else if (choice < 245) {
      device_->suspend();
      activate();
      static_cast<void>(device_->process_queue(0));
    } else {
      device_->reset();
      activate();
    }
    while (driver_.next_used()) {
      // No more comes back than was given.
      require(++used_ <= published_);
    }
  }

  void end() {
    device_->reset();
    struct stat status {};
    require(fstat(file_.get(), &status) == 0 && status.st_size == static_cast<off_t>(kDiskSize));
    if (!read_only_) return;
    std::string after(kDiskSize, '\0');
    require(pread(file_.get(), after.data(), kDiskSize, 0) == static_cast<ssize_t>(kDiskSize));
    require(after == before_);
  }

 private:
  const bool read_only_;
  const std::string before_;
  uint64_t features_ = 0;
  UniqueFd file_;
  FakeGuest guest_;
  FakeDriver driver_{guest_, kQueue};
  std::unique_ptr<Queue> queue_ = driver_.queue();
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<BlockDevice> device_;
  uint64_t slots_ = 0;
  uint64_t published_ = 0;
  uint64_t used_ = 0;
};

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer names it
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ByteReader input(std::as_bytes(std::span(data, size)));
  Scene scene(input.read<uint8_t>().value_or(0));
  for (int i = 0; i < kMaxSteps; ++i) {
    const auto choice = input.read<uint8_t>();
    if (!choice) break;
    scene.step(*choice, input);
  }
  scene.end();
  return 0;
}
