// SPDX-License-Identifier: Apache-2.0
// A driver that reads and writes the registers of a virtio-mmio slot, and the rings behind them, in
// any order it likes, with a device in the slot that uses what it is given.
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <thread>

#include "base/bytes.h"
#include "tests/support/fake_driver.h"
#include "vmm/virtio/mmio_transport.h"

namespace {

using kiln::ByteReader;
using kiln::EventLoop;
using kiln::Result;
using kiln::TaskQueue;
using namespace kiln::vmm;  // NOLINT(google-build-using-namespace): all of it is under test

constexpr int kMaxSteps = 256;
constexpr uint64_t kRings = 4096;  // what most inputs point their queues at

class EchoDevice : public VirtioDevice {
 public:
  DeviceType type() const override { return DeviceType::kEntropy; }
  uint64_t features() const override { return 5; }
  std::span<const uint16_t> queue_sizes() const override { return sizes_; }
  void read_config(uint32_t, std::span<std::byte> out) const override {
    std::fill(out.begin(), out.end(), std::byte{7});
  }
  Result<void> activate(Activation activation) override {
    activation_ = std::move(activation);
    return {};
  }
  Result<void> process_queue(unsigned index) override {
    Queue& queue = *activation_.queues[index];
    DescriptorChain chain;
    for (int i = 0; i < 64 && TRY(queue.pop(chain)); ++i)
      TRY(queue.push_used(chain.head, chain.writable_size));
    if (queue.needs_interrupt()) activation_.interrupt(index);
    return {};
  }
  void reset() override { activation_ = {}; }

 private:
  const std::array<uint16_t, 2> sizes_{16, 8};
  Activation activation_;
};

// One thread for the whole run.
struct DeviceThread {
  std::unique_ptr<EventLoop> loop = *EventLoop::create();
  std::unique_ptr<TaskQueue> tasks = *TaskQueue::create(*loop);
  std::thread thread{[this] {
    if (!loop->run()) abort();
  }};
  ~DeviceThread() {
    tasks->post([this] { loop->stop(); });
    thread.join();
  }
};

void step(MmioTransport& slot, FakeGuest& guest, TaskQueue& tasks, ByteReader& input) {
  const auto what = input.read<uint8_t>().value_or(0);
  const auto offset = input.read<uint16_t>().value_or(0);
  const auto value = input.read<uint32_t>().value_or(0);
  std::array<std::byte, 8> data{};
  std::memcpy(data.data(), &value, sizeof value);
  const size_t width = size_t{1} << (what >> 4 & 3);
  switch (what & 7) {
    case 0:
      return slot.read(offset & 0xfff, std::span(data).first(width));
    case 1:
    case 2:
      return slot.write(offset & 0xfff, std::span(data).first(width));
    case 3:
    case 4:  // registers alone, in their own width
      return slot.write(offset & 0xfc, std::span(data).first(4));
    case 5:
    case 6:
      guest.put(kRings + (offset & 0xffe), static_cast<uint16_t>(value));
      return;
    default: {
      const uint64_t one = 1;
      if (slot.kick_fd(what >> 7) >= 0)
        static_cast<void>(!write(slot.kick_fd(what >> 7), &one, sizeof one));
      tasks.call([] {});
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static DeviceThread devices;
  FakeGuest guest;
  EchoDevice device;
  auto slot = *MmioTransport::create(*devices.loop, *devices.tasks, guest.memory());
  if (!slot->attach(device)) abort();
  ByteReader input(std::as_bytes(std::span(data, size)));
  for (int i = 0; i < kMaxSteps && !input.rest().empty(); ++i)
    step(*slot, guest, *devices.tasks, input);
  return 0;
}
