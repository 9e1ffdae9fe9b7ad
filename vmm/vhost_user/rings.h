// SPDX-License-Identifier: Apache-2.0
// The virtqueues of a device hosted over vhost-user: when each one runs, and on which memory.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/log.h"
#include "base/unique_fd.h"
#include "vmm/vhost_user/protocol.h"
#include "vmm/virtio/device.h"

namespace kiln::vmm {

// Keeps the device active while at least one ring runs, and suspends it for every change. On the
// loop's thread.
class VhostUserRings {
 public:
  VhostUserRings(EventLoop& loop, VirtioDevice& device);
  ~VhostUserRings();  // resets the device
  VhostUserRings(const VhostUserRings&) = delete;
  VhostUserRings& operator=(const VhostUserRings&) = delete;

  // `needs_enable`: rings run only once they are enabled (VHOST_USER_F_PROTOCOL_FEATURES).
  Result<void> set_features(uint64_t features, bool needs_enable);
  Result<void> set_memory(std::shared_ptr<const GuestMemory> memory);
  Result<void> set_size(unsigned index, uint32_t size);
  Result<void> set_addresses(const vhost_user::VringAddresses& addresses);
  Result<void> set_base(unsigned index, uint32_t base);
  // Starts the ring.
  Result<void> set_kick(unsigned index, UniqueFd fd);
  Result<void> set_call(unsigned index, UniqueFd fd);   // invalid: no interrupts
  Result<void> set_error(unsigned index, UniqueFd fd);  // invalid: none wanted
  Result<void> set_enabled(unsigned index, bool enabled);
  // Stops the ring; returns where it got to.
  Result<uint16_t> stop(unsigned index);
  Result<void> disable_all();
  // Stops every ring and resets the device, which then is as new.
  Result<void> reset_device();

 private:
  struct Ring {
    uint16_t size = 0;
    std::optional<vhost_user::VringAddresses> addresses;
    uint16_t next_available = 0;         // while there is no queue
    std::optional<uint16_t> stopped_at;  // what stop() returned
    bool enabled = false;
    bool failed = false;  // the driver broke it; until it is stopped
    UniqueFd kick;        // valid: started
    UniqueFd error;
    std::unique_ptr<Queue> queue;
  };
  // Outlives us in the device's copy of the interrupt function.
  struct CallFds {
    std::mutex mutex;
    std::vector<UniqueFd> fds;
  };

  Result<Ring*> at(unsigned index);
  bool should_run(const Ring& ring) const;
  void suspend();
  void drop_queue(Ring& ring);
  Result<void> resume();
  Result<void> open_queue(Ring& ring);
  void process(unsigned index);
  void fail(unsigned index, const Error& why);

  EventLoop& loop_;
  VirtioDevice& device_;
  std::vector<Ring> rings_;
  std::shared_ptr<CallFds> calls_;
  std::shared_ptr<const GuestMemory> memory_;
  uint64_t features_ = 0;
  bool needs_enable_ = false;
  bool active_ = false;
  bool reset_pending_ = false;
  RateLimit failures_{5};
};

}  // namespace kiln::vmm
