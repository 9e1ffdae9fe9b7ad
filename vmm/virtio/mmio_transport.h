// SPDX-License-Identifier: Apache-2.0
// Virtio over MMIO (virtio 1.2 §4.2): the registers of one slot of the built-in machine.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/event_loop.h"
#include "base/log.h"
#include "base/task_queue.h"
#include "base/unique_fd.h"
#include "vmm/virtio/device.h"

namespace kiln::vmm {

// A slot has descriptors for this many queues.
constexpr unsigned kMaxMmioQueues = 8;

// read() and write() come from vCPU threads and are guest-controlled; attach() and detach() from
// the thread that owns the machine. All of them wait for the device thread where the device itself
// is concerned, so that thread takes no lock of ours. A slot without a device says device id 0,
// which drivers leave alone (§4.2.3.1.1), and may get one while the machine runs.
class MmioTransport {
 public:
  // `loop` and `tasks`: of the device thread, which runs from before create() until we are gone.
  static Result<std::unique_ptr<MmioTransport>> create(EventLoop& loop, TaskQueue& tasks,
                                                       std::shared_ptr<const GuestMemory> memory);
  ~MmioTransport();
  MmioTransport(const MmioTransport&) = delete;
  MmioTransport& operator=(const MmioTransport&) = delete;

  // `device` must outlive its stay.
  Result<void> attach(VirtioDevice& device);
  // Resets the device; it is not used any more when this returns.
  void detach();

  // Any aligned width up to 8 bytes; what is no register, or a register in another width than 4,
  // reads as zero.
  void read(uint64_t offset, std::span<std::byte> out);
  void write(uint64_t offset, std::span<const std::byte> bytes);

  // Signals on these are the driver's kicks of queue i (a write of i to kQueueNotify).
  int kick_fd(unsigned index) const { return queues_[index].kick.get(); }
  // A signal on it is the device's interrupt.
  int interrupt_fd() const { return interrupt_.get(); }
  uint64_t kicks(unsigned index) const { return queues_[index].kicks.load(); }
  unsigned queue_count() const { return queue_count_.load(); }

  static constexpr uint64_t kQueueNotify = 0x50;

 private:
  struct QueueState {
    QueueConfig config;  // as the driver has written it
    bool ready = false;
    UniqueFd kick;
    std::unique_ptr<Queue> queue;    // device thread
    std::atomic<uint64_t> kicks{0};  // seen
  };

  MmioTransport(EventLoop& loop, TaskQueue& tasks, std::shared_ptr<const GuestMemory> memory)
      : loop_(loop), tasks_(tasks), memory_(std::move(memory)) {}

  uint32_t read_register(uint64_t offset);
  void write_register(uint64_t offset, uint32_t value);
  void write_queue_register(uint64_t offset, uint32_t value);
  uint64_t offered_features() const;
  uint32_t offered_features(uint32_t select) const;
  uint32_t interrupt_status() const;
  void write_status(uint32_t value);
  void enter_features_ok();
  void activate();
  void reset();
  void reset_registers();
  QueueState* selected_queue();

  // Device thread.
  Result<void> activate_device(VirtioDevice& device);
  void deactivate_device();
  void process(unsigned index);
  void fail(const Error& why);
  void raise(uint32_t cause);

  EventLoop& loop_;
  TaskQueue& tasks_;
  const std::shared_ptr<const GuestMemory> memory_;
  UniqueFd interrupt_;
  std::array<QueueState, kMaxMmioQueues> queues_;
  std::atomic<unsigned> queue_count_{0};
  // Changed on the device thread while mutex_ is held for it: both sides may look.
  VirtioDevice* device_ = nullptr;
  bool active_ = false;  // device thread

  std::mutex mutex_;  // the registers
  std::atomic<uint32_t> status_{0};
  std::atomic<uint32_t> interrupt_status_{0};
  std::atomic<uint32_t> generation_{0};
  uint32_t device_features_select_ = 0;
  uint32_t driver_features_select_ = 0;
  uint64_t driver_features_ = 0;
  uint32_t queue_select_ = 0;
  RateLimit warnings_{5};  // device thread
};

}  // namespace kiln::vmm
