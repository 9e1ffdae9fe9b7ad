// SPDX-License-Identifier: Apache-2.0
// What the block device adds to the system calls below it: a driver in this process keeps a deep
// queue busy with page-cached requests, beside a plain preadv/pwritev loop of the same sizes over
// the same offsets. Rounds alternate between the two, so that a slow moment of the machine hits
// both. Prints medians.
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "tests/support/fake_driver.h"
#include "vmm/virtio/block/block_device.h"

namespace {

using namespace kiln::vmm;
using kiln::EventLoop;
using kiln::UniqueFd;

constexpr uint64_t kFileSize = 256U << 20;
constexpr int kRounds = 9;

struct Case {
  const char* name;
  bool write;
  bool random;
  uint32_t size;
  uint16_t depth;
  uint32_t requests;  // a round
};
constexpr std::array kCases = {
    Case{"read, 4 KiB, random", false, true, 4096, 64, 40'000},
    Case{"write, 4 KiB, random", true, true, 4096, 64, 20'000},
    Case{"read, 128 KiB, sequential", false, false, 128U << 10, 16, 4'000},
    Case{"write, 128 KiB, sequential", true, false, 128U << 10, 16, 2'000},
};

[[noreturn]] void fail(const char* what) {
  std::perror(what);
  std::exit(1);
}

std::vector<uint64_t> offsets_of(const Case& one) {
  std::mt19937_64 random(1);
  std::vector<uint64_t> out(one.requests);
  const uint64_t places = kFileSize / one.size;
  for (size_t i = 0; i < out.size(); ++i)
    out[i] = (one.random ? random() % places : i % places) * one.size;
  return out;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// As many buffers in turn as the device has.
double plain_round(int fd, const Case& one, const std::vector<uint64_t>& offsets) {
  static std::vector<std::byte> memory(FakeGuest::kSize);
  const auto start = std::chrono::steady_clock::now();
  for (size_t i = 0; i < offsets.size(); ++i) {
    const iovec part{memory.data() + (i % one.depth) * one.size, one.size};
    const auto at = static_cast<off_t>(offsets[i]);
    const ssize_t moved = one.write ? pwritev(fd, &part, 1, at) : preadv(fd, &part, 1, at);
    if (moved != static_cast<ssize_t>(one.size)) fail("plain request");
  }
  return seconds_since(start);
}

// A disk with its driver: `depth` requests of three buffers each, made available again as soon as
// they are used.
class Disk {
 public:
  Disk(const std::string& path, const Case& one, bool use_io_uring)
      : one_(one), driver_(guest_, 256, true), queue_(driver_.queue()) {
    loop_ = std::move(*EventLoop::create());
    BlockOptions options;
    options.file = UniqueFd(open(path.c_str(), O_RDWR | O_CLOEXEC));
    options.use_io_uring = use_io_uring;
    auto device = BlockDevice::create(*loop_, std::move(options));
    if (!device) fail("create the device");
    device_ = std::move(*device);
    Activation activation;
    activation.memory = guest_.memory();
    activation.queues = {queue_.get()};
    activation.acked_features = device_->features();
    activation.interrupt = [](unsigned) {};
    activation.broken = [](unsigned, const kiln::Error&) { fail("broken queue"); };
    if (!device_->activate(std::move(activation))) fail("activate");
    headers_ = guest_.allocate(one.depth * sizeof(virtio_blk_outhdr));
    status_ = guest_.allocate(one.depth);
    data_ = guest_.allocate(uint64_t{one.depth} * one.size);
    for (uint16_t i = 0; i < one.depth; ++i) lay_out(i);
  }

  double round(const std::vector<uint64_t>& offsets) {
    const auto start = std::chrono::steady_clock::now();
    size_t next = 0;
    for (uint16_t i = 0; i < one_.depth; ++i) send(i, offsets[next++]);
    size_t done = 0;
    kick();
    while (done < offsets.size()) {
      bool sent = false;
      while (const auto used = driver_.next_used()) {
        ++done;
        const auto which = static_cast<uint16_t>(used->id / 3);
        if (guest_.get<uint8_t>(status_ + which) != VIRTIO_BLK_S_OK) fail("request");
        if (next == offsets.size()) continue;
        send(which, offsets[next++]);
        sent = true;
      }
      if (sent) kick();
      if (done < offsets.size() && !loop_->run_once(sent ? 0 : 1)) fail("loop");
    }
    return seconds_since(start);
  }

 private:
  void lay_out(uint16_t i) {
    const auto head = static_cast<uint16_t>(3 * i);
    const auto flags = static_cast<uint16_t>(one_.write ? 0 : VRING_DESC_F_WRITE);
    driver_.set_descriptor(head,
                           {headers_ + i * sizeof(virtio_blk_outhdr), sizeof(virtio_blk_outhdr),
                            VRING_DESC_F_NEXT, static_cast<uint16_t>(head + 1)});
    driver_.set_descriptor(
        static_cast<uint16_t>(head + 1),
        {data_ + uint64_t{i} * one_.size, one_.size,
         static_cast<uint16_t>(flags | VRING_DESC_F_NEXT), static_cast<uint16_t>(head + 2)});
    driver_.set_descriptor(static_cast<uint16_t>(head + 2),
                           {status_ + i, 1, VRING_DESC_F_WRITE, 0});
  }
  void send(uint16_t i, uint64_t offset) {
    virtio_blk_outhdr header{};
    header.type = one_.write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
    header.sector = offset / 512;
    guest_.put(headers_ + i * sizeof header, header);
    guest_.put(status_ + i, uint8_t{0xff});
    driver_.publish(static_cast<uint16_t>(3 * i));
  }
  void kick() {
    if (!device_->process_queue(0)) fail("process the queue");
  }

  const Case one_;
  FakeGuest guest_;
  FakeDriver driver_;
  std::unique_ptr<Queue> queue_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<BlockDevice> device_;
  uint64_t headers_ = 0;
  uint64_t status_ = 0;
  uint64_t data_ = 0;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void measure(const std::string& path, const Case& one) {
  const UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
  const auto offsets = offsets_of(one);
  Disk with_ring(path, one, true);
  Disk without(path, one, false);
  std::vector<double> plain;
  std::vector<double> ring;
  std::vector<double> direct;
  for (int i = 0; i < kRounds; ++i) {
    plain.push_back(plain_round(fd.get(), one, offsets));
    ring.push_back(with_ring.round(offsets));
    direct.push_back(without.round(offsets));
  }
  const double base = median(plain);
  const auto print = [&](const char* how, double seconds) {
    std::printf("%-28s %-18s %9.0f req/s %8.1f MB/s %6.1f %%\n", one.name, how,
                one.requests / seconds,
                static_cast<double>(one.size) * one.requests / seconds / 1e6, 100 * base / seconds);
  };
  print("plain loop", base);
  print("device, io_uring", median(ring));
  print("device, no ring", median(direct));
}

}  // namespace

int main(int argc, char** argv) {
  const std::string directory =
      argc > 1 ? argv[1] : std::filesystem::temp_directory_path().string();
  std::string path = directory + "/kiln-bench-block-XXXXXX";
  const UniqueFd fd(mkostemp(path.data(), O_CLOEXEC));
  if (!fd) fail("make a file");
  const std::vector<char> filling(1U << 20, 'x');
  for (uint64_t at = 0; at < kFileSize; at += filling.size())
    if (pwrite(fd.get(), filling.data(), filling.size(), static_cast<off_t>(at)) < 0)
      fail("fill the file");
  if (fsync(fd.get()) != 0) fail("fsync");
  for (const Case& one : kCases) measure(path, one);
  unlink(path.c_str());
  return 0;
}
