// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/virtio_blk.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/log.h"
#include "vmm/virtio/block/block_file.h"
#include "vmm/virtio/block/block_request.h"
#include "vmm/virtio/block/io_ring.h"
#include "vmm/virtio/block/write_pace.h"
#include "vmm/virtio/device.h"
#include "vmm/virtio/rate_limiter.h"

namespace kiln::vmm {

struct BlockOptions {
  UniqueFd file;       // a raw image or a block device, open as `read_only` says
  std::string serial;  // its first 20 bytes are the answer to GET_ID
  bool read_only = false;
  RateLimiterConfig rate_limiter;
  // What has to wait for the disk then stops nobody else on the loop; without it, or where the host
  // has none, requests are done one after the other.
  bool use_io_uring = true;
};

// The block device (virtio 1.2 §5.2) with one request queue. Runs on the loop's thread; only the
// configuration is for all. All that comes over the queue is guest-controlled. At most a queue's
// length of requests is in flight, whatever the guest makes available.
class BlockDevice : public VirtioDevice {
 public:
  static Result<std::unique_ptr<BlockDevice>> create(EventLoop& loop, BlockOptions options);
  ~BlockDevice() override;

  DeviceType type() const override { return DeviceType::kBlock; }
  uint64_t features() const override;
  std::span<const uint16_t> queue_sizes() const override;
  void read_config(uint32_t offset, std::span<std::byte> out) const override;
  void write_config(uint32_t offset, std::span<const std::byte> bytes) override;
  Result<void> activate(Activation activation) override;
  Result<void> process_queue(unsigned index) override;
  // What is in flight is waited for, and forgotten.
  void reset() override;
  // What is in flight is completed.
  void suspend() override;
  DeviceMetrics metrics() const override;

  bool uses_io_uring() const { return ring_ != nullptr; }

 private:
  // Why a batch of requests ended.
  enum class Batch { kFull, kEmpty, kNoSlot, kThrottled };
  // How much is done before the loop's other sources have their turn.
  struct Budget;

  BlockDevice(EventLoop& loop, BlockFile file, const BlockOptions& options);
  Result<void> set_up_ring();
  void fill_config();
  bool writes_through() const;

  Queue* queue() const;
  Result<void> work(Queue& queue);
  Result<void> serve(Queue& queue);
  Result<Batch> take_batch(Queue& queue, Budget& budget);
  Result<void> begin(Queue& queue, uint16_t slot);
  Result<void> step(Queue& queue, uint16_t slot);
  bool read_at_once(BlockRequest& request);
  bool write_at_once(BlockRequest& request);
  Result<void> run_now(Queue& queue, uint16_t slot);
  Result<void> collect(Queue& queue);
  Result<void> submit(Queue& queue);
  Result<void> run_unsubmitted(Queue& queue);
  Result<void> resume(Queue& queue, const IoRing::Completion& completion);
  Result<void> complete(Queue& queue, uint16_t slot);
  void report(const BlockRequest& request);
  void work_later(int64_t milliseconds);
  void work_outside_a_call();
  void drain(bool keep);
  void detach();
  tl::unexpected<Error> break_queue(Error why);

  EventLoop& loop_;
  BlockFile file_;
  const std::string serial_;
  BlockLimits limits_;
  RateLimiter limiter_;
  virtio_blk_config config_{};  // but for `wce`
  std::atomic<bool> writeback_{true};
  std::atomic<bool> writeback_chosen_{false};  // by the driver, since the last reset
  std::unique_ptr<IoRing> ring_;

  Activation activation_;
  bool active_ = false;
  bool broken_ = false;
  bool starved_ = false;                     // requests wait for a slot
  std::optional<EventLoop::TimerId> timer_;  // goes on then, and not before
  std::vector<BlockRequest> slots_;
  std::vector<uint16_t> free_slots_;
  unsigned in_flight_ = 0;  // in the ring
  DescriptorChain chain_;   // scratch: its vectors keep their capacity
  bool reads_at_once_ = true;
  WritePace write_pace_;
  DeviceMetrics metrics_;
  RateLimit log_limit_{5};
};

}  // namespace kiln::vmm
