// SPDX-License-Identifier: Apache-2.0
// The console (virtio 1.2 §5.3): what is written arrives, once and in order. The host looks for the
// line `console: all of this`, and for `0123456`.
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>

#include <cstring>

#include "tests/payloads/lib/device_checks.h"
#include "tests/payloads/lib/payload.h"
#include "tests/payloads/lib/report.h"
#include "tests/payloads/lib/time.h"

namespace payload {
namespace {

constexpr unsigned kReceive = 0;
constexpr unsigned kTransmit = 1;
constexpr uint64_t kSpare = 0x100'0000;

char text[64];

bool works() { return queues[kTransmit].request({readable("\n", 1)}); }

void check_output(const Subject& subject) {
  if (!check(start(subject), "starts")) return;
  Virtqueue& queue = queues[kTransmit];
  UsedElement used;
  // More than the host keeps; first, so that it keeps what follows.
  check(queue.request({{kSpare, 1 << 20, 0}}), "swallows-a-mebibyte");
  check(queue.request({readable("\nconsole: ", 10), readable("all of", 6), readable(" this\n", 6)},
                      used),
        "writes-a-line-in-pieces");
  check_equal(used.written, 0, "nothing-is-written-to-the-guest");
  for (unsigned i = 0; i < 8; ++i) queue.publish(queue.add({readable(&"0123456\n"[i], 1)}));
  queue.kick();
  bool good = true;
  for (unsigned i = 0; i < 8 && good; ++i) good = queue.wait_used(used) && used.id == (4 + i) % 16;
  check(good, "eight-at-once-in-order");
}

void check_size(const Subject& subject) {
  if ((subject.device.offered_features() & feature(VIRTIO_CONSOLE_F_SIZE)) == 0) return;
  const uint16_t columns = subject.device.config16(0);
  mmio_write16(subject.device.config_address(), static_cast<uint16_t>(columns + 1));
  check_equal(subject.device.config16(0), columns, "columns-are-read-only");
}

// What fits the rings but not this device.
void check_odd(const Subject& subject) {
  set_prefix("odd");
  const auto answered = [&](Virtqueue& queue) {
    return wait_until([&] {
      return queue.has_used() || (subject.device.status() & VIRTIO_CONFIG_S_NEEDS_RESET) != 0;
    });
  };
  start(subject);
  queues[kTransmit].publish(queues[kTransmit].add({writable(text, sizeof text)}));
  queues[kTransmit].kick();
  check(answered(queues[kTransmit]), "writable-output-is-answered");
  check_works(subject, "works-after-writable-output");
  start(subject);
  queues[kTransmit].publish(queues[kTransmit].add({readable(text, 0)}));
  queues[kTransmit].kick();
  check(answered(queues[kTransmit]), "empty-output-is-answered");
  check_works(subject, "works-after-empty-output");
  // Buffers for input that can take none: looked at now, later or never.
  start(subject);
  queues[kReceive].publish(queues[kReceive].add({readable(text, sizeof text)}));
  queues[kReceive].publish(queues[kReceive].add({writable(text, 0)}));
  queues[kReceive].publish(queues[kReceive].add({{UINT64_MAX - 4095, 4096, kWrite}}));
  queues[kReceive].kick();
  pass_time();
  check_works(subject, "works-after-odd-input-buffers");
  set_prefix("");
}

}  // namespace

void run() {
  Subject subject{.queue_count = 2, .queue = kTransmit, .works = works};
  if (!Device::find(VIRTIO_ID_CONSOLE, subject.device)) give_up("console-is-there");
  check_output(subject);
  check_size(subject);
  check_odd(subject);
  check_device(subject);
}

}  // namespace payload
