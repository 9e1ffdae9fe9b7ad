// SPDX-License-Identifier: Apache-2.0
// What the network device costs: frames go from one tap through the receive queue of a device into
// the buffers of a fake driver, and from there through the transmit queue of another device to a
// second tap. Beside it, a loop of read() and write() carries the same frames between two other
// taps, one frame at a time, and once more in batches, as a queue has them. Filling the first tap
// and the driver's own work are not timed: the driver is the guest's. Its buffers lie side by side,
// as Linux's do within 32 KiB.
//
// In namespaces of its own; needs /dev/net/tun. bench_net [BATCHES]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/format.h"
#include "tests/support/fake_driver.h"
#include "tests/support/network_namespace.h"
#include "vmm/virtio/net/net_device.h"

namespace kiln::vmm {
namespace {

constexpr uint16_t kRingSize = 256;
constexpr uint32_t kBufferSize = 4096;
constexpr uint64_t kFeatures =
    (uint64_t{1} << VIRTIO_NET_F_MRG_RXBUF) | (uint64_t{1} << VIRTIO_NET_F_GUEST_CSUM) |
    (uint64_t{1} << VIRTIO_NET_F_GUEST_TSO6) | (uint64_t{1} << VIRTIO_NET_F_CSUM) |
    (uint64_t{1} << VIRTIO_NET_F_HOST_TSO6);
constexpr size_t kHeaders = 74;      // Ethernet, IPv6, TCP
constexpr size_t kShortHeader = 10;  // a packet socket's

void check(const Result<void>& result) {
  if (result) return;
  std::fprintf(stderr, "bench_net: %s\n", result.error().message.c_str());
  std::exit(1);
}
template <typename T>
T check(Result<T> result) {
  if (!result) check(Result<void>(tl::unexpected(std::move(result.error()))));
  return std::move(*result);
}

struct Load {
  const char* name;
  size_t frame_size;
  unsigned batch;  // frames that are received before they are sent
};

// A TCP segment over IPv6, for an address that is nobody's: the host drops it early.
std::string make_frame(size_t size) {
  std::string frame(size, 'x');
  std::string headers(kHeaders, '\0');
  headers[0] = headers[6] = 2;
  headers[11] = 1;
  headers[12] = '\x86';
  headers[13] = '\xdd';
  headers[14] = 0x60;
  headers[18] = static_cast<char>((size - 54) >> 8);
  headers[19] = static_cast<char>(size - 54);
  headers[20] = 6;
  headers[21] = 64;
  headers[22] = headers[38] = '\xfd';
  headers[66] = 0x50;
  frame.replace(0, headers.size(), headers);
  virtio_net_hdr_v1 header{};
  header.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
  header.csum_start = 54;
  header.csum_offset = 16;
  if (size > 1514) {
    header.gso_type = VIRTIO_NET_HDR_GSO_TCPV6;
    header.gso_size = 1440;
    header.hdr_len = kHeaders;
  }
  return std::string(reinterpret_cast<const char*>(&header), kShortHeader) + frame;
}

// Two taps, with a socket that sends out of the first.
struct Wires {
  std::string in_name, out_name;
  UniqueFd in, out, source;

  explicit Wires(const std::string& name) : in_name(name + "-in"), out_name(name + "-out") {
    in = check(open_tap(in_name));
    out = check(open_tap(out_name));
    check(set_link_up(in_name, true));
    check(set_link_up(out_name, true));
    source = check(packet_socket(in_name));
  }
  void fill(const std::string& frame, unsigned count) const {
    for (unsigned i = 0; i < count; ++i) {
      if (send(source.get(), frame.data(), frame.size(), 0) == static_cast<ssize_t>(frame.size()))
        continue;
      check(Result<void>(sys_error("send a frame")));
    }
  }
  // Frames that came out of the second tap, by the kernel's count.
  uint64_t arrived() const {
    const std::string text = check(read_file("/proc/self/net/dev"));
    const size_t at = text.find(out_name + ":");
    unsigned long long bytes = 0;
    unsigned long long frames = 0;
    if (at == std::string::npos ||
        std::sscanf(text.c_str() + at + out_name.size() + 1, "%llu %llu", &bytes, &frames) != 2)
      return 0;
    return frames;
  }
};

// The plain loop.
class Shovel {
 public:
  Shovel() {
    check(set_tap_offloads(wires_.in.get(), tap_offloads(kFeatures)));
    buffer_.resize(kNetHeaderSize + kLargestFrame);
  }
  const Wires& wires() const { return wires_; }
  // One frame at a time, through a buffer that stays in the cache.
  int64_t carry(const std::string& frame, unsigned count) {
    wires_.fill(frame, count);
    const int64_t start = monotonic_ns();
    while (true) {
      const ssize_t size = read(wires_.in.get(), buffer_.data(), buffer_.size());
      if (size < 0 && errno == EAGAIN) break;
      if (size < 0 || write(wires_.out.get(), buffer_.data(), static_cast<size_t>(size)) != size)
        check(Result<void>(sys_error("carry a frame")));
    }
    return monotonic_ns() - start;
  }
  // As a queue does: all frames in, through as much memory as the ring has, then all out.
  int64_t carry_batch(const std::string& frame, unsigned count) {
    wires_.fill(frame, count);
    sizes_.clear();
    const int64_t start = monotonic_ns();
    for (size_t at = 0; sizes_.size() < count; at += (frame.size() + kBufferSize) & ~4095UL) {
      const ssize_t size = read(wires_.in.get(), &ring_[at], ring_.size() - at);
      if (size < 0) check(Result<void>(sys_error("receive a frame")));
      sizes_.push_back(size);
    }
    size_t at = 0;
    for (const ssize_t size : sizes_) {
      if (write(wires_.out.get(), &ring_[at], static_cast<size_t>(size)) != size)
        check(Result<void>(sys_error("send a frame")));
      at += (frame.size() + kBufferSize) & ~4095UL;
    }
    return monotonic_ns() - start;
  }

 private:
  Wires wires_{"plain"};
  std::vector<char> buffer_;
  std::vector<char> ring_ = std::vector<char>(size_t{kRingSize + 32} * kBufferSize);
  std::vector<ssize_t> sizes_;
};

// Two devices and their driver.
class Machine {
 public:
  // With so many receive buffers.
  explicit Machine(const std::string& name, uint32_t buffer_count) : wires_(name) {
    in_ = make(std::move(wires_.in), 1, rx_queue_.get(), nullptr);
    out_ = make(std::move(wires_.out), 2, nullptr, tx_queue_.get());
    const uint64_t buffers = guest_.allocate(uint64_t{kRingSize} * kBufferSize);
    for (uint32_t i = 0; i < buffer_count; ++i) post(buffers + uint64_t{i} * kBufferSize);
  }
  const Wires& wires() const { return wires_; }
  int64_t carry(const std::string& frame, unsigned count) {
    wires_.fill(frame, count);
    const uint64_t received = in_->metrics().requests + count;
    const uint64_t sent = out_->metrics().requests + count;
    const int64_t start = monotonic_ns();
    check(in_->process_queue(NetDevice::kRx));
    run_until(*in_, received);
    const int64_t middle = monotonic_ns();
    forward();
    const int64_t again = monotonic_ns();
    check(out_->process_queue(NetDevice::kTx));
    run_until(*out_, sent);
    const int64_t end = monotonic_ns();
    reclaim();
    return end - again + middle - start;
  }

 private:
  std::unique_ptr<NetDevice> make(UniqueFd tap, uint8_t number, Queue* rx, Queue* tx) {
    NetOptions options;
    options.tap = std::move(tap);
    options.mac = {2, 0, 0, 0, 0, number};
    auto device = check(NetDevice::create(*loop_, std::move(options)));
    Activation activation;
    activation.memory = guest_.memory();
    activation.queues = {rx, tx};
    activation.acked_features = kFeatures;
    activation.interrupt = [](unsigned) {};
    check(device->activate(std::move(activation)));
    return device;
  }
  void run_until(const NetDevice& device, uint64_t requests) const {
    while (device.metrics().requests < requests) {
      check(loop_->run_once(0));
      if (device.metrics().failed_requests == 0) continue;
      std::fprintf(stderr, "bench_net: the device dropped a frame\n");
      std::exit(1);
    }
  }
  void post(uint64_t address) {
    addresses_[rx_.add_chain({{address, kBufferSize, true}})] = address;
  }
  // Sends what was received, out of the same buffers.
  void forward() {
    while (auto used = rx_.next_used()) {
      std::vector<FakeBuffer> buffers;
      auto left = guest_.get<virtio_net_hdr_v1>(addresses_[used->id]).num_buffers;
      while (used) {
        buffers.push_back({addresses_[used->id], used->len, false});
        used_addresses_.push_back(addresses_[used->id]);
        if (--left == 0) break;
        used = rx_.next_used();
      }
      tx_.add_chain(buffers);
    }
  }
  void reclaim() {
    while (tx_.next_used()) {
    }
    for (const uint64_t address : used_addresses_) post(address);
    used_addresses_.clear();
  }

  Wires wires_;
  FakeGuest guest_;
  FakeDriver rx_{guest_, kRingSize, true};
  FakeDriver tx_{guest_, kRingSize, true};
  std::unique_ptr<Queue> rx_queue_ = rx_.queue();
  std::unique_ptr<Queue> tx_queue_ = tx_.queue();
  std::unique_ptr<EventLoop> loop_ = check(EventLoop::create());
  std::unique_ptr<NetDevice> in_, out_;
  std::array<uint64_t, kRingSize> addresses_{};  // by head
  std::vector<uint64_t> used_addresses_;
};

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

void print(const char* what, const Load& load, double ns) {
  std::printf("%-10s x%-4u %-8s %9.0f ns/frame %10.0f frames/s %8.0f MB/s\n", load.name, load.batch,
              what, ns, 1e9 / ns, static_cast<double>(load.frame_size) * 1e3 / ns);
}

void measure(const Load& load, unsigned batches, Shovel& shovel, Machine& machine) {
  const std::string frame = make_frame(load.frame_size);
  const uint64_t before = shovel.wires().arrived() + machine.wires().arrived();
  std::vector<double> plain, batched, device;
  for (unsigned i = 0; i < batches; ++i) {
    // In turns, so that all have the same weather.
    plain.push_back(static_cast<double>(shovel.carry(frame, load.batch)) / load.batch);
    batched.push_back(static_cast<double>(shovel.carry_batch(frame, load.batch)) / load.batch);
    device.push_back(static_cast<double>(machine.carry(frame, load.batch)) / load.batch);
  }
  const uint64_t arrived = shovel.wires().arrived() + machine.wires().arrived() - before;
  if (arrived != uint64_t{3} * batches * load.batch) {
    std::fprintf(stderr, "bench_net: %llu of %llu frames arrived\n",
                 static_cast<unsigned long long>(arrived),
                 static_cast<unsigned long long>(uint64_t{3} * batches * load.batch));
    std::exit(1);
  }
  print("plain", load, median(plain));
  print("batched", load, median(batched));
  print("device", load, median(device));
  std::printf("%-10s x%-4u device/plain %.2f, device/batched %.2f\n", load.name, load.batch,
              median(plain) / median(device), median(batched) / median(device));
}

}  // namespace
}  // namespace kiln::vmm

int main(int argc, char** argv) {
  using namespace kiln::vmm;
  const unsigned batches =
      argc > 1 ? static_cast<unsigned>(std::strtoul(argv[1], nullptr, 10)) : 1000;
  if (batches == 0) {
    std::fprintf(stderr, "usage: bench_net [BATCHES]\n");
    return 2;
  }
  check(kiln::enter_network_namespace());
  // Nothing but the benchmark's frames.
  check(kiln::write_file("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"));
  Shovel shovel;
  Machine few("few", 32);  // what the loop's one buffer is, they stay in the cache
  Machine full("full", kRingSize);
  // The kernel segments what has 65536 bytes or more.
  for (const Load& load : {Load{"1500", 1514, 1}, Load{"64KiB-GSO", 65'535, 1}})
    measure(load, batches, shovel, few);
  for (const Load& load : {Load{"1500", 1514, 200}, Load{"64KiB-GSO", 65'535, 14}})
    measure(load, batches, shovel, full);
  return 0;
}
