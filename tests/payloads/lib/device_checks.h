// SPDX-License-Identifier: Apache-2.0
// What holds for every device: the transport's registers, and what a broken driver gets.
#pragma once

#include <cstdint>

#include "tests/payloads/lib/virtio_mmio.h"
#include "tests/payloads/lib/virtqueue.h"

namespace payload {

constexpr unsigned kMaxQueues = 5;
// The rings of the one device that a payload drives at a time.
extern Virtqueue queues[kMaxQueues];

struct Subject {
  Device device;
  unsigned queue_count;
  unsigned queue;  // one whose buffers the device looks at as soon as it is kicked
  // A good request through queues[queue], all queues set up and DRIVER_OK set. Whether it went
  // well.
  bool (*works)();
  // Behind vhost-user the transport cannot tell interrupts apart: its status always says "a queue".
  bool served_remotely;
};

// From reset to DRIVER_OK with all queues; with everything that it offers, or `features`.
bool start(const Subject& subject);
bool start(const Subject& subject, uint64_t features);
// start() and works(), reported as `name`.
bool check_works(const Subject& subject, const char* name);

// Identity, feature negotiation, frozen registers, notifications at wrong times.
void check_transport(const Subject& subject);
// Loops, addresses outside memory, indices out of range, indirect descriptors in all wrong ways.
void check_bad_chains(const Subject& subject);
// Rings that are misaligned, outside memory or of no possible size.
void check_bad_rings(const Subject& subject);
// All three.
void check_device(const Subject& subject);

}  // namespace payload
