// SPDX-License-Identifier: Apache-2.0
// The entropy device (virtio 1.2 §5.4): one queue, writable buffers, filled with random bytes.
#include <linux/virtio_ids.h>

#include <cstring>

#include "tests/payloads/lib/device_checks.h"
#include "tests/payloads/lib/payload.h"
#include "tests/payloads/lib/report.h"
#include "tests/payloads/lib/time.h"

namespace payload {
namespace {

constexpr unsigned kRequests = 0;
// Memory that belongs to nobody, far above the payload.
constexpr uint64_t kSpare = 0x100'0000;

uint8_t bytes[64];
uint8_t others[64];

bool all_zero(const uint8_t* at, size_t size) {
  for (size_t i = 0; i < size; ++i)
    if (at[i] != 0) return false;
  return true;
}

bool fill(uint8_t* to, size_t size) {
  memset(to, 0, size);
  UsedElement used;
  return queues[kRequests].request({writable(to, size)}, used) && used.written > 0 &&
         used.written <= size && !all_zero(to, used.written);
}

bool works() { return fill(bytes, sizeof bytes); }

void check_good(const Subject& subject) {
  if (!check(start(subject), "starts")) return;
  check(fill(bytes, sizeof bytes) && fill(others, sizeof others), "fills-buffers");
  check(memcmp(bytes, others, sizeof bytes) != 0, "does-not-repeat");
  UsedElement used;
  memset(bytes, 0, sizeof bytes);
  check(queues[kRequests].request({writable(bytes, 8), writable(bytes + 32, 8)}, used) &&
            used.written > 0 && used.written <= 16 && all_zero(bytes + 8, 24),
        "fills-scattered-buffers");
  check(queues[kRequests].request({{kSpare, 4 << 20, kWrite}}, used) && used.written > 0 &&
            used.written <= 4 << 20,
        "survives-a-large-buffer");
  bool good = true;
  for (unsigned i = 0; i < 100 && good; ++i) good = fill(bytes, 16);
  check(good, "fills-100-in-a-row");
}

// Many at once, interrupts by VIRTIO_F_EVENT_IDX where it is there.
void check_batch(const Subject& subject) {
  if (!check(start(subject), "batch-starts")) return;
  Virtqueue& queue = queues[kRequests];
  queue.set_used_event(7);
  const uint32_t before = subject.device.queue_interrupts();
  for (unsigned i = 0; i < 8; ++i) queue.publish(queue.add({writable(bytes + i * 8, 8)}));
  queue.kick();
  UsedElement used;
  unsigned seen = 0;
  bool good = true;
  for (unsigned i = 0; i < 8 && good; ++i) {
    good = queue.wait_used(used) && used.written <= 8;
    seen |= 1U << used.id;
  }
  check(good && seen == 0xff, "batch-is-used-up");
  check(subject.device.wait_for_queue_interrupt(before), "batch-raises-an-interrupt");
}

// What fits the rings but not this device: never more than a used buffer or a reset.
void check_odd(const Subject& subject) {
  UsedElement used;
  set_prefix("odd");
  start(subject);
  Virtqueue& queue = queues[kRequests];
  queue.publish(queue.add({readable(bytes, sizeof bytes)}));
  queue.kick();
  const auto answered = [&] {
    return queue.has_used() || (subject.device.status() & VIRTIO_CONFIG_S_NEEDS_RESET) != 0;
  };
  check(wait_until(answered), "readable-buffer-is-answered");
  if (queue.has_used() && queue.wait_used(used))
    check_equal(used.written, 0, "readable-buffer-gets-nothing");
  check_works(subject, "works-after-readable-buffer");

  start(subject);
  queue.publish(queue.add({writable(bytes, 0)}));
  queue.kick();
  check(wait_until(answered), "empty-buffer-is-answered");
  if (queue.has_used() && queue.wait_used(used))
    check_equal(used.written, 0, "empty-buffer-gets-nothing");
  check_works(subject, "works-after-empty-buffer");
  set_prefix("");
}

}  // namespace

void run() {
  Subject subject{.queue_count = 1, .queue = kRequests, .works = works};
  if (!Device::find(VIRTIO_ID_RNG, subject.device)) give_up("rng-is-there");
  check_good(subject);
  check_batch(subject);
  check_odd(subject);
  check_device(subject);
}

}  // namespace payload
