// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "vmm/virtio/device.h"
#include "vmm/virtio/net/frame.h"
#include "vmm/virtio/rate_limiter.h"

namespace kiln::vmm {

// From the guest to the tap. Part of a NetDevice, on its thread. Frames and their headers are
// guest-controlled; they go to the kernel unread, which checks the header against the frame.
class NetTransmitter {
 public:
  // `tap` is borrowed; `metrics` outlives the transmitter.
  NetTransmitter(int tap, const RateLimiterConfig& limiter, DeviceMetrics& metrics)
      : tap_(tap), limiter_(limiter), metrics_(metrics) {}

  void start(std::shared_ptr<const GuestMemory> memory, Queue* queue);
  void stop();
  // Sends what there is. An error is a broken driver.
  Result<NetTurn> run();
  void tap_writable() { blocked_ = false; }
  bool tap_gone() const { return gone_; }  // the interface was deleted
  uint64_t rate_limiter_hits() const { return limiter_.hits(); }

 private:
  enum class Sent { kDone, kBlocked };

  Result<bool> next_chain();
  // False: not before `not_before_ns_`.
  bool take_tokens(uint32_t frame_size);
  Result<Sent> send(uint32_t frame_size);
  void drop(const char* why);

  int tap_;
  RateLimiter limiter_;
  DeviceMetrics& metrics_;
  RateLimit lines_{5};
  std::shared_ptr<const GuestMemory> memory_;
  Queue* queue_ = nullptr;
  DescriptorChain chain_;
  std::vector<iovec> iovecs_;
  std::vector<iovec> list_;  // the same, neighbours joined
  bool wants_kicks_ = true;
  bool blocked_ = false;  // the tap took no more
  bool gone_ = false;
  bool paid_ = false;  // the next frame's tokens were taken already
  int64_t not_before_ns_ = 0;
};

}  // namespace kiln::vmm
