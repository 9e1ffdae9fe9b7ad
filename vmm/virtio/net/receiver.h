// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "vmm/virtio/device.h"
#include "vmm/virtio/net/frame.h"
#include "vmm/virtio/rate_limiter.h"

namespace kiln::vmm {

// From the tap to the guest. Part of a NetDevice, on its thread. The kernel writes frames straight
// into the guest's buffers, of which enough for the largest frame are popped ahead ("staged"), with
// room of our own behind them: what does not fit the staged buffers is never cut.
class NetReceiver {
 public:
  // `tap` is borrowed; `metrics` outlives the receiver.
  NetReceiver(int tap, const RateLimiterConfig& limiter, DeviceMetrics& metrics);

  void start(std::shared_ptr<const GuestMemory> memory, Queue* queue, uint64_t acked_features);
  // Gives unused buffers back to the queue; a frame that was read waits for start().
  void suspend();
  // Forgets everything; does not touch the queue.
  void reset();
  // Reads what there is. An error is a broken driver.
  Result<NetTurn> run();
  void tap_readable() { readable_ = true; }
  bool tap_gone() const { return gone_; }  // the interface was deleted
  uint64_t rate_limiter_hits() const { return limiter_.hits(); }

 private:
  // A popped chain; its ranges are ranges_[first, first + count), and so are its iovecs.
  struct Staged {
    uint16_t head = 0;
    uint32_t size = 0;  // bytes
    size_t first = 0;
    size_t count = 0;
  };

  size_t staged_count() const { return staged_.size() - front_; }
  size_t first_range() const { return front_ < staged_.size() ? staged_[front_].first : 0; }
  std::span<const GuestRange> staged_ranges() const {
    return std::span(ranges_).subspan(first_range());
  }
  void forget_staged();
  void forget_used();
  Result<void> stage();
  Result<bool> stage_or_ask(uint64_t wanted);
  Result<void> add_staged(const DescriptorChain& chain);
  Result<NetTurn> read_frames();
  ssize_t read_frame();
  NetTurn read_failed(int error);
  void show_window();
  void use_up(uint64_t bytes);
  Result<bool> accept_frame(uint32_t size);
  Result<bool> deliver_kept(NetTurn& turn);
  Result<void> keep(uint32_t size);
  Result<void> deliver(virtio_net_hdr_v1 header, uint32_t size);
  bool may_have(const virtio_net_hdr_v1& header) const;
  bool take_tokens(uint32_t size);
  void drop(uint32_t size, const char* why);
  NetTurn later() const;

  int tap_;
  RateLimiter limiter_;
  DeviceMetrics& metrics_;
  RateLimit lines_{5};
  std::shared_ptr<const GuestMemory> memory_;
  Queue* queue_ = nullptr;
  bool mergeable_ = false;
  unsigned offloads_ = 0;  // TUN_F_* that the driver takes

  DescriptorChain chain_;  // scratch
  std::vector<Staged> staged_;
  size_t front_ = 0;  // of `staged_`: those before it are used up
  std::vector<GuestRange> ranges_;
  // What is staged and not used up, where neighbours are one: a driver's buffers lie side by side.
  std::vector<iovec> joined_;
  size_t joined_front_ = 0;
  uint64_t capacity_ = 0;      // bytes, of what is staged and not used up
  std::vector<iovec> list_;    // what the last read was shown
  uint64_t window_ = 0;        // bytes of the staged buffers in it
  unsigned small_frames_ = 0;  // in a row
  std::vector<UsedChain> used_;
  std::unique_ptr<std::byte[]> spill_;

  // A frame with its header that could not be delivered yet; empty: none.
  std::vector<std::byte> kept_;
  bool kept_paid_ = false;        // its tokens are taken
  int64_t kept_deadline_ns_ = 0;  // when to give it up; 0: not waiting for buffers
  int64_t not_before_ns_ = 0;     // 0: at once
  bool wants_kicks_ = true;
  bool readable_ = true;  // the tap may have a frame
  bool gone_ = false;
};

}  // namespace kiln::vmm
