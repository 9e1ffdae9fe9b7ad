// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "base/event_loop.h"
#include "vmm/virtio/device.h"
#include "vmm/virtio/fs/fuse_session.h"

namespace kiln::vmm {

// The file system device (virtio 1.2 §5.11): FUSE requests in virtqueues. One priority queue, for
// forgets, and one request queue; both served in order on the loop's thread. The configuration
// (tag, number of queues) is the front-end's.
class FsDevice : public VirtioDevice {
 public:
  // Both must outlive the device.
  FsDevice(EventLoop& loop, FuseSession& session) : loop_(loop), session_(session) {}
  ~FsDevice() override;

  DeviceType type() const override { return DeviceType::kFs; }
  uint64_t features() const override { return 0; }
  std::span<const uint16_t> queue_sizes() const override;
  void read_config(uint32_t offset, std::span<std::byte> out) const override;
  bool has_config() const override { return false; }
  Result<void> activate(Activation activation) override;
  Result<void> process_queue(unsigned index) override;
  void reset() override;
  void suspend() override;

 private:
  // A request that waits for a lock.
  struct Waiting {
    unsigned queue = 0;
    DescriptorChain chain;
  };
  // False: it has to wait.
  Result<bool> serve(Queue& queue, const DescriptorChain& chain);
  Result<bool> load(const DescriptorChain& chain, FuseRequest& request);
  Result<void> answer(Queue& queue, const DescriptorChain& chain, const fuse_in_header& header);
  void retry();
  void schedule_retry();

  EventLoop& loop_;
  FuseSession& session_;
  Activation activation_;
  bool active_ = false;
  std::vector<Waiting> waiting_;
  std::optional<EventLoop::TimerId> timer_;
  int64_t retry_ms_ = 0;
  // Scratch whose capacity is kept.
  DescriptorChain chain_;
  std::vector<std::byte> arguments_;
  std::vector<iovec> payload_;
  std::vector<iovec> space_;
  FuseReply reply_;
};

}  // namespace kiln::vmm
