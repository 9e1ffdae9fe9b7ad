// SPDX-License-Identifier: Apache-2.0
#include "tests/payloads/lib/arguments.h"
#include "tests/payloads/lib/device_checks.h"
#include "tests/payloads/lib/report.h"
#include "tests/payloads/lib/time.h"
#include "vmm/kvm/layout.h"

namespace payload {
namespace {

namespace layout = kiln::vmm::layout;

constexpr uint64_t kIndirectFeature = feature(28);  // VIRTIO_F_INDIRECT_DESC
constexpr unsigned kSize = Virtqueue::kSize;

alignas(16) Descriptor table[kSize];
char bytes[64];

uint64_t at(const void* object) { return reinterpret_cast<uint64_t>(object); }
uint64_t end_of_memory() { return low_memory().start + low_memory().size; }

// Writes one malformed chain and makes it available. Good parts of it are of both directions in the
// right order, so that no device gets as far as minding its content.
using Breaker = void (*)(Virtqueue&);

void publish_one(Virtqueue& queue, const Descriptor& descriptor) {
  queue.descriptor(0) = descriptor;
  queue.publish(0);
}

void loop_to_itself(Virtqueue& queue) { publish_one(queue, {at(bytes), 8, kNext, 0}); }

void loop_of_two(Virtqueue& queue) {
  queue.descriptor(1) = {at(bytes), 8, kNext, 0};
  publish_one(queue, {at(bytes), 8, kNext, 1});
}

void loop_of_writable(Virtqueue& queue) {
  queue.descriptor(1) = {at(bytes), 8, kNext | kWrite, 1};
  publish_one(queue, {at(bytes), 8, kNext, 1});
}

void next_out_of_range(Virtqueue& queue) { publish_one(queue, {at(bytes), 8, kNext, kSize}); }
void head_out_of_range(Virtqueue& queue) { queue.publish(kSize); }
void head_far_out_of_range(Virtqueue& queue) { queue.publish(0xffff); }

void available_too_far_ahead(Virtqueue& queue) {
  queue.descriptor(0) = {at(bytes), 8, 0, 0};
  queue.set_available_index(static_cast<uint16_t>(queue.available_index() + kSize + 1));
}

void available_backwards(Virtqueue& queue) {
  queue.descriptor(0) = {at(bytes), 8, 0, 0};
  queue.set_available_index(static_cast<uint16_t>(queue.available_index() - 1));
}

void address_is_mmio(Virtqueue& queue) {
  publish_one(queue, {argument("mmio", layout::kMmioStart), 64, kWrite, 0});
}
void address_is_apic(Virtqueue& queue) { publish_one(queue, {layout::kLapic, 64, kWrite, 0}); }
void address_is_past_memory(Virtqueue& queue) {
  publish_one(queue, {end_of_memory(), 64, kWrite, 0});
}
void address_is_far(Virtqueue& queue) {
  publish_one(queue, {0xffff'ffff'0000'0000, 64, kWrite, 0});
}
void address_wraps(Virtqueue& queue) { publish_one(queue, {UINT64_MAX - 7, 64, kWrite, 0}); }
void crosses_end_of_memory(Virtqueue& queue) {
  publish_one(queue, {end_of_memory() - 16, 0x1000, kWrite, 0});
}
void readable_past_memory(Virtqueue& queue) { publish_one(queue, {end_of_memory(), 64, 0, 0}); }
void huge_length(Virtqueue& queue) { publish_one(queue, {at(bytes), 0xffff'ffff, kWrite, 0}); }
void sum_overflows(Virtqueue& queue) {
  for (unsigned i = 0; i < 3; ++i)
    queue.descriptor(i) = {at(bytes), 0xc000'0000, static_cast<uint16_t>(i < 2 ? kNext : 0),
                           static_cast<uint16_t>(i + 1)};
  queue.publish(0);
}
void readable_after_writable(Virtqueue& queue) {
  queue.descriptor(1) = {at(bytes), 8, 0, 0};
  publish_one(queue, {at(bytes), 8, kNext | kWrite, 1});
}

void indirect_in_indirect(Virtqueue& queue) {
  table[0] = {at(table), sizeof(Descriptor), kIndirect, 0};
  publish_one(queue, {at(table), sizeof(Descriptor), kIndirect, 0});
}
void indirect_with_next(Virtqueue& queue) {
  table[0] = {at(bytes), 8, 0, 0};
  publish_one(queue, {at(table), sizeof(Descriptor), kIndirect | kNext, 1});
}
void indirect_of_size_zero(Virtqueue& queue) { publish_one(queue, {at(table), 0, kIndirect, 0}); }
void indirect_of_odd_size(Virtqueue& queue) { publish_one(queue, {at(table), 24, kIndirect, 0}); }
void indirect_outside_memory(Virtqueue& queue) {
  publish_one(queue, {end_of_memory(), 32, kIndirect, 0});
}
void indirect_wraps(Virtqueue& queue) { publish_one(queue, {UINT64_MAX - 15, 32, kIndirect, 0}); }
void indirect_loop(Virtqueue& queue) {
  table[0] = {at(bytes), 8, kNext, 1};
  table[1] = {at(bytes), 8, kNext, 0};
  publish_one(queue, {at(table), 2 * sizeof(Descriptor), kIndirect, 0});
}
void indirect_next_out_of_range(Virtqueue& queue) {
  table[0] = {at(bytes), 8, kNext, 1};
  publish_one(queue, {at(table), sizeof(Descriptor), kIndirect, 0});
}

struct BadChain {
  const char* name;
  Breaker make;
};

constexpr BadChain kBadChains[] = {
    {"loop-to-itself", loop_to_itself},
    {"loop-of-two", loop_of_two},
    {"loop-of-writable", loop_of_writable},
    {"next-out-of-range", next_out_of_range},
    {"head-out-of-range", head_out_of_range},
    {"head-far-out-of-range", head_far_out_of_range},
    {"available-too-far-ahead", available_too_far_ahead},
    {"available-backwards", available_backwards},
    {"address-is-past-memory", address_is_past_memory},
    {"address-is-far", address_is_far},
    {"address-wraps", address_wraps},
    {"crosses-end-of-memory", crosses_end_of_memory},
    {"readable-past-memory", readable_past_memory},
    {"huge-length", huge_length},
    {"sum-overflows", sum_overflows},
    {"readable-after-writable", readable_after_writable},
};

// QEMU's devices reach other devices' registers.
constexpr BadChain kBadMmio[] = {
    {"address-is-mmio", address_is_mmio},
    {"address-is-apic", address_is_apic},
};

// For a device that offers VIRTIO_F_INDIRECT_DESC.
constexpr BadChain kBadIndirect[] = {
    {"indirect-in-indirect", indirect_in_indirect},
    {"indirect-with-next", indirect_with_next},
    {"indirect-of-size-zero", indirect_of_size_zero},
    {"indirect-of-odd-size", indirect_of_odd_size},
    {"indirect-outside-memory", indirect_outside_memory},
    {"indirect-wraps", indirect_wraps},
    {"indirect-loop", indirect_loop},
    {"indirect-next-out-of-range", indirect_next_out_of_range},
};

// virtio 1.2 §2.1.2: DEVICE_NEEDS_RESET, and a notification of a configuration change.
void expect_needs_reset(const Subject& subject, uint32_t config_interrupts) {
  check(subject.device.wait_for_needs_reset(), "needs-reset");
  check(wait_until([&] { return subject.device.config_interrupts() != config_interrupts; }),
        "config-interrupt");
  check_works(subject, "works-after-reset");
}

void run_bad_chain(const Subject& subject, const BadChain& bad, uint64_t features) {
  set_prefix(bad.name);
  const uint32_t before = subject.device.config_interrupts();
  if (!check(start(subject, features), "starts")) return;
  Virtqueue& queue = queues[subject.queue];
  bad.make(queue);
  queue.kick();
  expect_needs_reset(subject, before);
  set_prefix("");
}

struct BadRing {
  const char* name;
  uint32_t size;
  RingAddresses rings;  // 0: as it should be
};

void run_bad_ring(const Subject& subject, const BadRing& bad) {
  set_prefix(bad.name);
  const Device& device = subject.device;
  const uint32_t before = device.config_interrupts();
  if (!check(device.negotiate(), "negotiates")) return;
  Virtqueue& queue = queues[subject.queue];
  for (unsigned i = 0; i < subject.queue_count; ++i) {
    queues[i].clear(device, i);
    if (&queues[i] != &queue) queues[i].set_up(device, i);
  }
  RingAddresses rings = queue.addresses();
  if (bad.rings.descriptors != 0) rings.descriptors = bad.rings.descriptors;
  if (bad.rings.available != 0) rings.available = bad.rings.available;
  if (bad.rings.used != 0) rings.used = bad.rings.used;
  device.write_queue(subject.queue, bad.size, rings);
  device.set_driver_ok();
  queue.publish(queue.add({readable(bytes, 8)}));
  queue.kick();
  expect_needs_reset(subject, before);
  set_prefix("");
}

}  // namespace

void check_bad_chains(const Subject& subject) {
  const uint64_t features = subject.device.offered_features();
  for (const BadChain& bad : kBadChains) run_bad_chain(subject, bad, features);
  if (!has_argument("dma-to-mmio"))
    for (const BadChain& bad : kBadMmio) run_bad_chain(subject, bad, features);
  if ((features & kIndirectFeature) == 0) return;
  for (const BadChain& bad : kBadIndirect) run_bad_chain(subject, bad, features);
  const BadChain not_agreed = {"indirect-not-agreed", [](Virtqueue& queue) {
                                 table[0] = {at(bytes), 8, 0, 0};
                                 publish_one(queue, {at(table), sizeof(Descriptor), kIndirect, 0});
                               }};
  run_bad_chain(subject, not_agreed, features & ~kIndirectFeature);
}

void check_bad_rings(const Subject& subject) {
  const uint64_t past = end_of_memory();
  const BadRing bad_rings[] = {
      {"descriptors-past-memory", kSize, {past, 0, 0}},
      {"available-past-memory", kSize, {0, past, 0}},
      {"used-past-memory", kSize, {0, 0, past}},
      {"descriptors-cross-end-of-memory", kSize, {past - 16, 0, 0}},
      {"used-crosses-end-of-memory", kSize, {0, 0, past - 8}},
      {"descriptors-wrap", kSize, {UINT64_MAX - 15, 0, 0}},
      {"used-is-apic", kSize, {0, 0, layout::kLapic}},
      {"descriptors-misaligned", kSize, {at(table) + 8, 0, 0}},
      {"available-misaligned", kSize, {0, at(table) + 1, 0}},
      {"used-misaligned", kSize, {0, 0, at(table) + 2}},
      {"size-is-zero", 0, {}},
      {"size-is-no-power-of-two", 12, {}},
      {"size-is-above-the-maximum", 0x8000, {}},
      {"size-is-above-16-bits", 0x1'0010, {}},
  };
  for (const BadRing& bad : bad_rings)
    if (bad.rings.used != layout::kLapic || !has_argument("dma-to-mmio"))
      run_bad_ring(subject, bad);
}

}  // namespace payload
