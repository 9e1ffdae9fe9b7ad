// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/virtio_balloon.h>

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string_view>

#include "base/event_loop.h"
#include "base/log.h"
#include "vmm/virtio/device.h"

namespace kiln::vmm {

struct BalloonOptions {
  uint32_t amount_mib = 0;  // what the guest is to give up from the start
  bool deflate_on_oom = true;
  uint32_t stats_polling_interval_s = 0;  // 0: no statistics
  bool free_page_reporting = true;
};

// The memory balloon device (virtio 1.2 §5.5): takes memory from the guest by agreement, and gives
// to the host what the guest has free. Lives on the loop's thread. What it does is at the guest's
// word: a guest that inflates or reports what it uses loses its own bytes, one that never inflates
// keeps its memory, and every number that it reports may be a lie.
class BalloonDevice : public VirtioDevice {
 public:
  // `loop` must outlive the device. kInvalidArgument for an amount that has no page number.
  static Result<std::unique_ptr<BalloonDevice>> create(EventLoop& loop,
                                                       const BalloonOptions& options);
  ~BalloonDevice() override;

  // Asks the guest for a balloon of this size, to be blown up or let down.
  Result<void> set_target_mib(uint32_t mib);
  uint32_t target_mib() const;
  // As the guest says; rounded down. guest-controlled
  uint32_t actual_mib() const;
  // The memory given back to the host so far, in bytes; what the guest took again is in it.
  uint64_t discarded_bytes() const { return discarded_bytes_; }
  // The guest's last numbers by Firecracker's names (swap_in, free_memory, …), in bytes or events;
  // those alone that it has reported. guest-controlled
  std::map<std::string_view, uint64_t> statistics() const;

  DeviceType type() const override { return DeviceType::kBalloon; }
  uint64_t features() const override;
  std::span<const uint16_t> queue_sizes() const override;
  void read_config(uint32_t offset, std::span<std::byte> out) const override;
  void write_config(uint32_t offset, std::span<const std::byte> bytes) override;
  Result<void> activate(Activation activation) override;
  Result<void> process_queue(unsigned index) override;
  void reset() override;
  void suspend() override;
  DeviceMetrics metrics() const override { return metrics_; }

 private:
  static constexpr size_t kQueues = 5;
  enum class Role { kNone, kInflate, kDeflate, kStatistics, kReporting };
  // A chain that is being served, over several turns if it is long.
  struct Work {
    DescriptorChain chain;
    bool busy = false;
    uint32_t done = 0;  // inflate: bytes; reporting: ranges
  };

  BalloonDevice(EventLoop& loop, const BalloonOptions& options);
  Role role(unsigned index) const;
  Queue* queue(unsigned index) const;
  Result<void> serve(unsigned index, Queue& queue);
  Result<bool> step(Role role, Work& work);
  Result<bool> inflate(Work& work);
  bool report(Work& work);
  void discard_pages(std::span<uint32_t> pages);
  void discard(uint64_t address, uint64_t size);
  void ignore(const char* what);
  Result<void> collect(Work& work, Queue& queue);
  void poll_statistics();
  void schedule_poll();
  void continue_later(unsigned index);
  void continue_now();

  EventLoop& loop_;
  const BalloonOptions options_;
  // Read and written by vCPU threads too; in pages of 4 KiB.
  std::atomic<uint32_t> target_pages_;
  std::atomic<uint32_t> actual_pages_{0};
  bool target_is_news_ = false;  // changed while nobody could be told
  Activation activation_;        // empty while the device is not active
  std::array<Work, kQueues> work_;
  std::array<bool, kQueues> unfinished_{};
  std::optional<EventLoop::TimerId> turn_timer_;
  // The statistics buffer that the guest has given and that asks for the next numbers.
  std::optional<uint16_t> held_buffer_;
  std::optional<EventLoop::TimerId> poll_timer_;
  std::array<std::optional<uint64_t>, VIRTIO_BALLOON_S_NR> statistics_{};
  uint64_t discarded_bytes_ = 0;
  RateLimit log_limit_{5};
  DeviceMetrics metrics_;
};

}  // namespace kiln::vmm
