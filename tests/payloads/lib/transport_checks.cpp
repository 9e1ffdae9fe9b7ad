// SPDX-License-Identifier: Apache-2.0
#include "tests/payloads/lib/device_checks.h"
#include "tests/payloads/lib/report.h"
#include "tests/payloads/lib/time.h"

namespace payload {

Virtqueue queues[kMaxQueues];

namespace {

constexpr uint32_t kNoQueue = 0xfff;

void check_identity(const Subject& subject) {
  const Device& device = subject.device;
  check(device.reset(), "reset-reads-back-0");
  check_equal(device.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0, "no-interrupt-after-reset");
  device.write(VIRTIO_MMIO_MAGIC_VALUE, 0);
  check_equal(device.read(VIRTIO_MMIO_MAGIC_VALUE), 0x74726976, "magic-is-read-only");
  check((device.offered_features() & kVersion1) != 0, "offers-version-1");
  device.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
  check_equal(device.read(VIRTIO_MMIO_DEVICE_FEATURES), 0, "no-features-above-64");
  device.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
  bool sized = true;
  for (unsigned i = 0; i < subject.queue_count; ++i)
    if (device.max_queue_size(i) < Virtqueue::kSize) sized = false;
  check(sized, "queues-have-sizes");
  // virtio 1.2 §4.2.2: 0 where there is no such queue.
  check_equal(device.max_queue_size(kNoQueue), 0, "no-such-queue-has-size-0");
}

void check_negotiation(const Subject& subject) {
  const Device& device = subject.device;
  const uint64_t offered = device.offered_features();
  // §2.2.2, §3.1.1: the device refuses by leaving FEATURES_OK clear.
  check(!device.negotiate(offered | feature(63)), "unoffered-feature-is-refused");
  check(!device.negotiate(offered & ~kVersion1), "missing-version-1-is-refused");
  check(device.negotiate(kVersion1), "version-1-alone-is-agreed");
  // §3.1.1 step 5: too late. What was agreed stays, so that the device still works.
  check(device.negotiate(offered), "all-features-are-agreed");
  device.accept_features(feature(63));
  check((device.status() & VIRTIO_CONFIG_S_FEATURES_OK) != 0, "features-are-frozen");
}

// Everything that a driver may not touch once it has said DRIVER_OK.
void check_frozen(const Subject& subject) {
  const Device& device = subject.device;
  if (!check(start(subject), "starts")) return;
  const unsigned queue = subject.queue;
  check(device.queue_ready(queue), "queue-reads-ready");
  device.accept_features(0);
  device.write(VIRTIO_MMIO_QUEUE_SEL, queue);
  device.write(VIRTIO_MMIO_QUEUE_NUM, 2);
  device.write(VIRTIO_MMIO_QUEUE_DESC_LOW, 0xfffff000);
  device.write(VIRTIO_MMIO_QUEUE_AVAIL_HIGH, 0xffffffff);
  device.write(VIRTIO_MMIO_QUEUE_USED_LOW, 1);
  device.write(VIRTIO_MMIO_QUEUE_READY, 1);
  device.write(VIRTIO_MMIO_QUEUE_SEL, kNoQueue);
  device.write(VIRTIO_MMIO_QUEUE_NUM, 16);
  device.write(VIRTIO_MMIO_QUEUE_READY, 1);
  check(subject.works(), "queue-is-frozen-at-driver-ok");
  device.reset();
  check(!device.queue_ready(queue), "reset-clears-queue-ready");
}

void check_notifications(const Subject& subject) {
  const Device& device = subject.device;
  device.reset();
  device.notify(subject.queue);
  check_equal(device.status(), 0, "kick-after-reset-is-ignored");
  device.negotiate();
  queues[subject.queue].set_up(device, subject.queue);
  device.notify(subject.queue);
  if (!check(start(subject), "starts-after-early-kicks")) return;
  device.notify(kNoQueue);
  device.notify(0xffffffff);
  // Nothing is available.
  for (unsigned i = 0; i < 20; ++i) device.notify(subject.queue);
  // Writes to registers that only the device changes, and to none.
  device.write(VIRTIO_MMIO_INTERRUPT_STATUS, 3);
  device.write(VIRTIO_MMIO_DEVICE_FEATURES, 0xffffffff);
  device.write(VIRTIO_MMIO_CONFIG_GENERATION, 7);
  device.write(0x0f8, 0xffffffff);
  device.read(0x0f8);
  check(subject.works(), "odd-writes-are-ignored");
}

void check_interrupts(const Subject& subject) {
  const Device& device = subject.device;
  const uint32_t before = device.queue_interrupts();
  if (!check(start(subject, device.offered_features() & ~feature(29)), "starts-without-event-idx"))
    return;
  check(subject.works(), "works-without-event-idx");
  check(device.wait_for_queue_interrupt(before), "interrupt-arrives");
  // Acknowledged by the handler.
  if (!subject.served_remotely)
    check(wait_until([&] { return device.read(VIRTIO_MMIO_INTERRUPT_STATUS) == 0; }),
          "interrupt-is-acknowledged");
  for (unsigned i = 0; i < subject.queue_count; ++i) queues[i].set_no_interrupt(true);
  const uint32_t quiet = device.queue_interrupts();
  check(subject.works(), "works-without-interrupts");
  pass_time();
  check_equal(device.queue_interrupts(), quiet, "no-interrupt-is-honoured");
}

// Odd widths and places in the configuration; what is past its end reads as 0 (§2.5).
void check_configuration(const Subject& subject) {
  const Device& device = subject.device;
  check_equal(device.config32(0xe00), 0, "config-past-the-end-reads-0");
  mmio_read64(device.config_address());
  mmio_read16(device.config_address() + 1);
  mmio_read32(device.config_address() + 0xeff);
  mmio_write32(device.config_address() + 0xe00, 0xffffffff);
  mmio_write64(device.config_address() + 0xef8, 0xffffffff);
  // Registers are 32 bits wide (§4.2.2.2).
  mmio_read8(device.config_address() - VIRTIO_MMIO_CONFIG + VIRTIO_MMIO_STATUS);
  mmio_write16(device.config_address() - VIRTIO_MMIO_CONFIG + VIRTIO_MMIO_QUEUE_NUM, 3);
  mmio_read32(device.config_address() - VIRTIO_MMIO_CONFIG + VIRTIO_MMIO_QUEUE_NUM_MAX + 2);
  check_works(subject, "odd-widths-are-survived");
}

// Requests that nobody waits for, and a reset among them.
void check_reset_in_flight(const Subject& subject) {
  const Device& device = subject.device;
  bool good = true;
  for (unsigned round = 0; round < 10 && good; ++round) {
    good = start(subject);
    Virtqueue& queue = queues[subject.queue];
    const uint16_t head = queue.available_index();
    // works() waits for its request: what is made available again here is the same chain.
    good = good && subject.works();
    for (unsigned i = 0; i < 8; ++i) queue.publish(head);
    queue.kick();
    good = good && device.reset();
    const uint16_t used = queue.used_index();
    pass_time(kMoment / 20);
    // §2.4.1: after a reset nothing touches the rings.
    good = good && queue.used_index() == used;
  }
  check(good, "reset-in-flight");
  check_works(subject, "works-after-reset-in-flight");
}

}  // namespace

bool start(const Subject& subject, uint64_t features) {
  const Device& device = subject.device;
  if (!device.negotiate(features)) return false;
  for (unsigned i = 0; i < subject.queue_count; ++i) queues[i].set_up(device, i);
  device.set_driver_ok();
  return (device.status() & (VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_NEEDS_RESET)) ==
         VIRTIO_CONFIG_S_DRIVER_OK;
}

bool start(const Subject& subject) { return start(subject, subject.device.offered_features()); }

bool check_works(const Subject& subject, const char* name) {
  return check(start(subject) && subject.works(), name);
}

void check_transport(const Subject& subject) {
  check_identity(subject);
  check_negotiation(subject);
  check_frozen(subject);
  check_notifications(subject);
  check_interrupts(subject);
  check_configuration(subject);
  check_reset_in_flight(subject);
}

void check_device(const Subject& subject) {
  check_transport(subject);
  check_bad_chains(subject);
  check_bad_rings(subject);
}

}  // namespace payload
