// SPDX-License-Identifier: Apache-2.0
// A driver that does to a virtio device what a fuzzer's input says: well-formed requests and broken
// rings, kicks, configuration accesses, resets and pauses in any order.
#pragma once

#include <algorithm>
#include <array>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#include "base/bytes.h"
#include "base/event_loop.h"
#include "tests/support/fake_driver.h"
#include "vmm/virtio/device.h"

namespace kiln::vmm {

class HostileDriver {
 public:
  // For steps that are the device's own: its host's side.
  using HostStep = std::function<void(uint8_t choice, ByteReader& input)>;

  // At most this many queues of the device are used.
  static constexpr size_t kMaxQueues = 5;

  HostileDriver(EventLoop& loop, VirtioDevice& device, uint64_t acked_features)
      : loop_(loop), device_(device), acked_features_(acked_features) {
    const size_t count = std::min(device.queue_sizes().size(), kMaxQueues);
    for (size_t i = 0; i < count; ++i) drivers_.emplace_back(guest_, kQueueSize, i % 2 != 0);
    queues_.resize(count);
    start();
  }

  FakeGuest& guest() { return guest_; }

  void run(ByteReader& input, const HostStep& host_step) {
    for (int i = 0; i < kMaxSteps; ++i) {
      const auto step = input.read<uint8_t>();
      if (!step) return;
      const auto which = static_cast<unsigned>(*step / kSteps % drivers_.size());
      take(static_cast<Step>(*step % kSteps), which, input, host_step);
    }
  }

 private:
  static constexpr int kMaxSteps = 128;
  static constexpr uint16_t kQueueSize = 16;
  enum Step : uint8_t {
    kChain,
    kChainAndKick,
    kDescriptor,
    kPublish,
    kIndex,
    kKick,
    kLoop,
    kPause,
    kReset,
    kWriteConfig,
    kReadConfig,
    kMemory,
    kHost,
    kSteps,
  };
  // As it lies in the input.
  struct Buffer {
    uint32_t address;
    uint16_t size;
    uint8_t writable;
  } __attribute__((packed));

  void start() {
    Activation activation;
    activation.memory = guest_.memory();
    activation.acked_features = acked_features_;
    for (size_t i = 0; i < drivers_.size(); ++i) {
      if (queues_[i] == nullptr) queues_[i] = drivers_[i].queue();
      activation.queues.push_back(queues_[i].get());
    }
    activation.interrupt = [this](unsigned index) {
      if (index >= drivers_.size()) abort();
    };
    activation.broken = [this](unsigned index, const Error&) {
      if (index >= drivers_.size()) abort();
      needs_reset_ = true;
    };
    activation.config_changed = [] {};
    if (!device_.activate(std::move(activation))) abort();
  }

  void reset() {
    device_.reset();
    needs_reset_ = false;
    for (size_t i = 0; i < drivers_.size(); ++i) {
      queues_[i].reset();
      drivers_[i].set_available_index(0);
      guest_.put(drivers_[i].config().used_ring + 2, uint16_t{0});
    }
    start();
  }

  void pause() {
    device_.suspend();
    for (size_t i = 0; i < drivers_.size(); ++i) {
      auto queue =
          Queue::create(guest_.memory(), drivers_[i].config(), queues_[i]->next_available());
      if (!queue) abort();
      queues_[i].reset();
      if (!loop_.run_once(0)) abort();
      queues_[i] = std::move(*queue);
    }
    start();
    for (unsigned i = 0; i < drivers_.size(); ++i) kick(i);
  }

  void kick(unsigned index) {
    if (needs_reset_) return;
    if (!device_.process_queue(index)) needs_reset_ = true;
  }

  void add_chain(unsigned which, ByteReader& input) {
    std::vector<FakeBuffer> buffers;
    const size_t count = 1 + input.read<uint8_t>().value_or(0) % 4;
    for (size_t i = 0; i < count; ++i) {
      const auto buffer = input.read<Buffer>();
      if (!buffer) break;
      buffers.push_back({buffer->address, buffer->size, buffer->writable % 2 != 0});
    }
    if (!buffers.empty()) drivers_[which].add_chain(buffers);
  }

  void take(Step step, unsigned which, ByteReader& input, const HostStep& host_step) {
    switch (step) {
      case kChain:
        add_chain(which, input);
        break;
      case kChainAndKick:
        add_chain(which, input);
        kick(which);
        break;
      case kDescriptor: {
        const auto index = input.read<uint8_t>();
        const auto descriptor = input.read<vring_desc>();
        if (index && descriptor) drivers_[which].set_descriptor(*index % kQueueSize, *descriptor);
        break;
      }
      case kPublish:
        drivers_[which].publish(input.read<uint8_t>().value_or(0) % (kQueueSize + 1));
        break;
      case kIndex:
        drivers_[which].set_available_index(input.read<uint16_t>().value_or(0));
        break;
      case kKick:
        kick(which);
        break;
      case kLoop:
        if (!loop_.run_once(0)) abort();
        break;
      case kPause:
        // A transport does not restore a broken queue.
        needs_reset_ ? reset() : pause();
        break;
      case kReset:
        reset();
        break;
      default:
        access(step, input, host_step);
    }
  }

  void access(Step step, ByteReader& input, const HostStep& host_step) {
    if (step == kWriteConfig) {
      const auto offset = input.read<uint8_t>();
      const auto value = input.read<uint32_t>().value_or(0);
      const size_t size = size_t{1} << (offset.value_or(0) / 64);
      device_.write_config(offset.value_or(0) % 32,
                           std::as_bytes(std::span(&value, 1)).first(std::min<size_t>(size, 4)));
    } else if (step == kReadConfig) {
      std::array<std::byte, 8> bytes{};
      device_.read_config(input.read<uint32_t>().value_or(0), bytes);
    } else if (step == kMemory) {
      const auto address = input.read<uint32_t>();
      const auto bytes = input.read_bytes(input.read<uint8_t>().value_or(0));
      if (address && bytes)
        static_cast<void>(guest_.memory()->write(*address % FakeGuest::kSize, *bytes));
    } else if (step == kHost) {
      host_step(input.read<uint8_t>().value_or(0), input);
    }
  }

  EventLoop& loop_;
  VirtioDevice& device_;
  uint64_t acked_features_;
  FakeGuest guest_;
  std::vector<FakeDriver> drivers_;
  std::vector<std::unique_ptr<Queue>> queues_;
  bool needs_reset_ = false;
};

}  // namespace kiln::vmm
