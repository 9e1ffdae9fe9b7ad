// SPDX-License-Identifier: Apache-2.0
// The interface between a virtio transport and a device. The transport owns status, feature
// negotiation and queue addresses; a device sees only what it needs and can be hosted on
// virtio-mmio as well as in a vhost-user server.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/error.h"
#include "vmm/virtio/queue.h"

namespace kiln::vmm {

// virtio 1.2 §5, "Device ID".
enum class DeviceType : uint32_t {
  kNet = 1,
  kBlock = 2,
  kConsole = 3,
  kEntropy = 4,
  kBalloon = 5,
  kVsock = 19,
  kFs = 26,
};

// A queue that another process serves: what it needs to do so. The descriptors are borrowed.
struct RemoteQueue {
  bool ready = false;  // the driver has set it up
  QueueConfig config;
  int kick_fd = -1;  // an eventfd that the driver's notifications are written to
};

// What a device gets when the driver sets DRIVER_OK. Queues are frozen from here until reset().
struct Activation {
  std::shared_ptr<const GuestMemory> memory;
  std::vector<Queue*> queues;  // owned by the transport; null where the driver set none up
  uint64_t acked_features = 0;
  // Tells the driver that queue `index` has used buffers. Thread-safe. The queue decides whether it
  // is needed.
  std::function<void(unsigned index)> interrupt;
  // For what the device finds outside process_queue(): the driver has broken queue `index`. The
  // transport does as it does on process_queue()'s error. On the device's thread.
  std::function<void(unsigned index, const Error& why)> broken;
  // Tells the driver to read the configuration again. Thread-safe. Empty where the transport
  // cannot.
  std::function<void()> config_changed;
  // For a device with served_remotely(), instead of `queues` and `interrupt`.
  std::vector<RemoteQueue> remote_queues;
  int interrupt_fd = -1;  // an eventfd that raises the device's interrupt; borrowed
};

// What a device has done since it was made.
struct DeviceMetrics {
  uint64_t requests = 0;
  uint64_t bytes_from_guest = 0;
  uint64_t bytes_to_guest = 0;
  uint64_t failed_requests = 0;  // answered with an error status
  uint64_t rate_limiter_hits = 0;
};

// Everything but read_config() and write_config() is called on one thread, that of the event loop
// that the device was made with.

class VirtioDevice {
 public:
  virtual ~VirtioDevice() = default;
  virtual DeviceType type() const = 0;
  // The device's own feature bits. VIRTIO_F_VERSION_1 and the ring's (INDIRECT_DESC, EVENT_IDX) are
  // the transport's.
  virtual uint64_t features() const = 0;
  // The most that each queue may have; a vhost-user front-end decides by itself.
  virtual std::span<const uint16_t> queue_sizes() const = 0;
  // Bytes past the end of the device's configuration read as zero (virtio 1.2 §2.5). From any
  // thread, at any time: what changes there is atomic.
  virtual void read_config(uint32_t offset, std::span<std::byte> out) const = 0;
  // The driver writes to the configuration; all of it is guest-controlled. From any thread, at any
  // time, one call at a time. Fields that are not the driver's stay as they are.
  virtual void write_config(uint32_t offset, std::span<const std::byte> bytes) {
    static_cast<void>(offset);
    static_cast<void>(bytes);
  }
  // False where a vhost-user front-end has the configuration to itself: it is not asked for then.
  virtual bool has_config() const { return true; }
  virtual Result<void> activate(Activation activation) = 0;
  // The driver has kicked queue `index`. An error means the driver is broken: the transport sets
  // DEVICE_NEEDS_RESET (mmio) or stops the ring (vhost-user).
  virtual Result<void> process_queue(unsigned index) = 0;
  // The driver has reset the device, or the transport is going away.
  virtual void reset() = 0;
  // The queues and the memory are taken away for a while: the VM is paused, its memory map or one
  // of its rings changes. activate() follows, possibly with other queues, then process_queue() for
  // each. A device with state that the guest relies on (connections, inodes) keeps it. No Queue
  // and no guest memory may be touched after it returns.
  virtual void suspend() { reset(); }
  // Whether another process serves the queues; see Activation::remote_queues. Such a device's
  // process_queue() is not called.
  virtual bool served_remotely() const { return false; }
  // Which of the ring's features (INDIRECT_DESC, EVENT_IDX) the transport may offer: what another
  // process serves is up to that process.
  virtual uint64_t ring_features() const { return ~uint64_t{0}; }
  virtual DeviceMetrics metrics() const { return {}; }
};

}  // namespace kiln::vmm
