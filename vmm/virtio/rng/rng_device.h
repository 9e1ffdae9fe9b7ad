// SPDX-License-Identifier: Apache-2.0
// The device to copy: everything that a virtio device must do, and little else.
#pragma once

#include <memory>
#include <optional>

#include "base/event_loop.h"
#include "base/log.h"
#include "vmm/virtio/device.h"
#include "vmm/virtio/rate_limiter.h"

namespace kiln::vmm {

// The entropy device (virtio 1.2 §5.4): the host's random bytes for the guest's buffers. Lives on
// the loop's thread. The guest decides when and how much it asks; it is slowed down by the rate
// limiter and never gets more than kMaxRequest bytes at once.
class RngDevice : public VirtioDevice {
 public:
  // Bytes for one request, however large its buffer. Linux asks for 64 at most.
  static constexpr uint32_t kMaxRequest = 64U << 10;

  // `loop` must outlive the device.
  static Result<std::unique_ptr<RngDevice>> create(EventLoop& loop,
                                                   const RateLimiterConfig& rate_limiter);
  ~RngDevice() override;

  DeviceType type() const override { return DeviceType::kEntropy; }
  uint64_t features() const override { return 0; }  // §5.4.3: none are defined
  std::span<const uint16_t> queue_sizes() const override;
  void read_config(uint32_t offset, std::span<std::byte> out) const override;
  Result<void> activate(Activation activation) override;
  Result<void> process_queue(unsigned index) override;
  void reset() override;
  DeviceMetrics metrics() const override;

 private:
  RngDevice(EventLoop& loop, const RateLimiterConfig& rate_limiter);
  Result<void> serve(Queue& queue);
  Result<uint32_t> fill(uint32_t size);
  bool may_serve(uint32_t size);
  void continue_after(int64_t milliseconds);

  EventLoop& loop_;
  RateLimiter rate_limiter_;
  Activation activation_;  // empty while the device is not active
  std::optional<EventLoop::TimerId> timer_;
  RateLimit log_limit_{5};
  DeviceMetrics metrics_;
  // Scratch whose capacity is kept.
  DescriptorChain chain_;
  std::vector<iovec> buffers_;
};

}  // namespace kiln::vmm
