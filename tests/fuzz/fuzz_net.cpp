// SPDX-License-Identifier: Apache-2.0
// A guest that gives a network device what buffers it likes, while frames of all sizes come in.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <string>

#include "base/bytes.h"
#include "base/log.h"
#include "tests/support/fake_driver.h"
#include "vmm/virtio/net/net_device.h"

namespace {

using kiln::ByteReader;
using kiln::EventLoop;
using kiln::Result;
using kiln::UniqueFd;
using kiln::vmm::Activation;
using kiln::vmm::DescriptorChain;
using kiln::vmm::FakeBuffer;
using kiln::vmm::FakeDriver;
using kiln::vmm::FakeGuest;
using kiln::vmm::kLargestFrame;
using kiln::vmm::kNetHeaderSize;
using kiln::vmm::NetDevice;
using kiln::vmm::NetOptions;
using kiln::vmm::Queue;

constexpr int kMaxSteps = 128;
constexpr uint16_t kRingSize = 32;
constexpr uint64_t kBuffers = 0x10'0000;  // where the guest has them

void stay_quiet() {
  static const bool done = [] {
    kiln::log_setup(kiln::LogLevel::kError, kiln::LogFormat::kPlain,
                    UniqueFd(open("/dev/null", O_WRONLY | O_CLOEXEC)));
    return true;
  }();
  static_cast<void>(done);
}

// A frame's size: mostly small, at times around a limit.
size_t frame_size(uint8_t choice) {
  constexpr std::array<size_t, 8> kSizes = {0,
                                            11,
                                            25,
                                            26,
                                            1526,
                                            65'562,
                                            kNetHeaderSize + kLargestFrame,
                                            kNetHeaderSize + kLargestFrame + 1};
  return choice < 128 ? choice * size_t{40} : kSizes[choice % kSizes.size()];
}

struct Fixture {
  FakeGuest guest;
  FakeDriver rx;
  FakeDriver tx;
  std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
  UniqueFd peer;
  std::unique_ptr<Queue> rx_queue;
  std::unique_ptr<Queue> tx_queue;
  std::unique_ptr<NetDevice> device;
  uint64_t features = 0;

  explicit Fixture(uint8_t flavor)
      : rx(guest, kRingSize, (flavor & 1) != 0), tx(guest, kRingSize, (flavor & 1) != 0) {
    int ends[2] = {-1, -1};
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) abort();
    peer.reset(ends[1]);
    NetOptions options;
    options.tap.reset(ends[0]);
    options.mac = {2, 0, 0, 0, 0, 1};
    options.control.prepare = [](int) { return Result<void>(); };
    options.control.set_offloads = [](int, unsigned) { return Result<void>(); };
    if ((flavor & 2) != 0) options.rx_limiter.ops = {.size = 2, .refill_time_ms = 1};
    if ((flavor & 4) != 0) options.tx_limiter.bandwidth = {.size = 1000, .refill_time_ms = 1};
    if ((flavor & 8) != 0) features |= uint64_t{1} << VIRTIO_NET_F_MRG_RXBUF;
    if ((flavor & 16) != 0)
      features |= (uint64_t{1} << VIRTIO_NET_F_GUEST_CSUM) | (1U << VIRTIO_NET_F_GUEST_TSO4);
    device = std::move(*NetDevice::create(*loop, std::move(options)));
  }
  void activate(bool anew) {
    if (anew) {
      rx_queue = rx.queue();
      tx_queue = tx.queue();
    }
    Activation activation;
    activation.memory = guest.memory();
    activation.queues = {rx_queue.get(), tx_queue.get()};
    activation.acked_features = features;
    activation.interrupt = [](unsigned) {};
    activation.broken = [](unsigned, const kiln::Error&) {};
    if (!device->activate(std::move(activation))) abort();
  }
  void run() {
    for (int i = 0; i < 3; ++i)
      if (!loop->run_once(0)) abort();
  }

  // A chain of up to eight pieces, which may overlap and be of the wrong direction.
  void add_chain(FakeDriver& driver, uint8_t step, bool writable, ByteReader& input) {
    std::vector<FakeBuffer> buffers;
    for (int i = 0; i <= step % 8; ++i) {
      const auto at = input.read<uint16_t>().value_or(0);
      const auto size = input.read<uint16_t>().value_or(2048);
      buffers.push_back({kBuffers + at, size, writable});
    }
    if (step % 32 == 31) buffers.back().writable = !writable;
    if (step % 32 == 30) buffers.back().address = FakeGuest::kSize - 8;
    driver.add_chain(buffers);
  }
  void check_used() {
    while (const auto used = rx.next_used())
      if (used->len > kNetHeaderSize + kLargestFrame) abort();
    while (const auto used = tx.next_used())
      if (used->len != 0) abort();
  }
  void arrive(ByteReader& input) {
    std::string frame(frame_size(input.read<uint8_t>().value_or(2)), 'x');
    const std::array<uint8_t, 2> header = {input.read<uint8_t>().value_or(0),
                                           input.read<uint8_t>().value_or(0)};
    for (size_t i = 0; i < kNetHeaderSize && i < frame.size(); ++i)
      frame[i] = i < header.size() ? static_cast<char>(header[i] % 8) : '\0';
    static_cast<void>(send(peer.get(), frame.data(), frame.size(), MSG_DONTWAIT | MSG_NOSIGNAL));
  }
  void take_sent(unsigned most) {
    std::array<char, 64> buffer;
    for (unsigned i = 0; i < most; ++i) {
      const ssize_t size = recv(peer.get(), buffer.data(), buffer.size(), MSG_TRUNC);
      if (size < 0) return;
      // Nothing that is no frame gets out.
      if (size < static_cast<ssize_t>(kNetHeaderSize + kiln::vmm::kSmallestFrame) ||
          size > static_cast<ssize_t>(kNetHeaderSize + kLargestFrame))
        abort();
    }
  }
};

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer names it
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  stay_quiet();
  ByteReader input(std::as_bytes(std::span(data, size)));
  Fixture fixture(input.read<uint8_t>().value_or(0));
  fixture.activate(true);
  for (int i = 0; i < kMaxSteps; ++i) {
    const auto step = input.read<uint8_t>();
    if (!step) break;
    const auto low = static_cast<uint8_t>(*step % 32);
    switch (*step / 32) {
      case 0:
        fixture.add_chain(fixture.rx, low, true, input);
        break;
      case 1:
        fixture.add_chain(fixture.tx, low, false, input);
        break;
      case 2:
      case 3:
        fixture.arrive(input);
        break;
      case 4:
        static_cast<void>(fixture.device->process_queue(low % 3));
        break;
      case 5:
        fixture.take_sent(low);
        break;
      case 6:
        // Whatever the ring says.
        if (low < 16)
          fixture.rx.publish(low);
        else
          fixture.tx.publish(low % 16);
        break;
      default:
        if (low < 16) {
          fixture.device->suspend();
        } else if (low < 28) {
          fixture.device->reset();
        } else {
          fixture.peer.reset();
        }
        fixture.run();
        fixture.activate(low >= 16);
    }
    fixture.run();
    fixture.check_used();
  }
  return 0;
}
