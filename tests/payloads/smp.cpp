// SPDX-License-Identifier: Apache-2.0
// Four processors at once: each drives a device of its own (rng, console, block, balloon) with
// interrupts to itself, resets it now and then, and pokes at its neighbour's registers. `rounds=`:
// how often.
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>

#include "tests/payloads/lib/arguments.h"
#include "tests/payloads/lib/cpu.h"
#include "tests/payloads/lib/interrupts.h"
#include "tests/payloads/lib/payload.h"
#include "tests/payloads/lib/processors.h"
#include "tests/payloads/lib/report.h"
#include "tests/payloads/lib/time.h"
#include "tests/payloads/lib/virtqueue.h"

namespace payload {
namespace {

constexpr unsigned kProcessors = 4;
constexpr unsigned kRequestsEach = 12;
constexpr uint64_t kSpare = 0x200'0000;
constexpr unsigned kMostQueues = 5;

struct Worker {
  uint32_t device_id;
  unsigned queue_count;
  unsigned queue;
  bool (*request)(Virtqueue&);
  Device device;
  Virtqueue queues[kMostQueues];
  uint32_t good;
  uint32_t interrupts;
};

bool ask_rng(Virtqueue& queue) {
  static uint8_t bytes[64];
  UsedElement used;
  return queue.request({writable(bytes, sizeof bytes)}, used) && used.written != 0;
}

bool ask_console(Virtqueue& queue) { return queue.request({readable("smp\n", 4)}); }

bool ask_block(Virtqueue& queue) {
  static virtio_blk_outhdr header;
  static uint8_t data[512];
  static uint8_t status;
  header = {};
  header.type = VIRTIO_BLK_T_IN;
  status = 0xee;
  return queue.request({readable(&header, sizeof header), writable(data, sizeof data),
                        writable(&status, 1)}) &&
         status == VIRTIO_BLK_S_OK;
}

bool ask_balloon(Virtqueue& queue) {
  static uint32_t frame = kSpare / 4096;
  return queue.request({readable(&frame, sizeof frame)});
}

Worker workers[kProcessors] = {
    {VIRTIO_ID_RNG, 1, 0, ask_rng, {}, {}, 0, 0},
    {VIRTIO_ID_CONSOLE, 2, 1, ask_console, {}, {}, 0, 0},
    {VIRTIO_ID_BLOCK, 1, 0, ask_block, {}, {}, 0, 0},
    {VIRTIO_ID_BALLOON, 2, 0, ask_balloon, {}, {}, 0, 0},
};
uint32_t together;
unsigned rounds;

bool restart(Worker& worker) {
  if (!worker.device.negotiate(kVersion1)) return false;
  for (unsigned i = 0; i < worker.queue_count; ++i) worker.queues[i].set_up(worker.device, i);
  worker.device.set_driver_ok();
  return true;
}

// What another processor may do to a device that is not its own: nothing comes of it.
void poke(const Device& device) {
  device.status();
  device.read(VIRTIO_MMIO_CONFIG_GENERATION);
  mmio_read32(device.config_address());
  device.notify(0);
  device.notify(1);
}

void work(unsigned index) {
  Worker& worker = workers[index];
  const Device& neighbour = workers[(index + 1) % kProcessors].device;
  __atomic_add_fetch(&together, 1, __ATOMIC_RELAXED);
  wait_until([] { return __atomic_load_n(&together, __ATOMIC_RELAXED) >= kProcessors; });
  const uint32_t before = worker.device.queue_interrupts();
  for (unsigned round = 0; round < rounds; ++round) {
    if (!restart(worker)) return;
    for (unsigned i = 0; i < kRequestsEach; ++i) {
      if (!worker.request(worker.queues[worker.queue])) return;
      ++worker.good;
      poke(neighbour);
    }
  }
  worker.device.wait_for_queue_interrupt(before);
  worker.interrupts = worker.device.queue_interrupts() - before;
}

constexpr const char* kNames[kProcessors] = {"rng", "console", "block", "balloon"};

}  // namespace

void run() {
  rounds = static_cast<unsigned>(argument("rounds", 4));
  for (Worker& worker : workers) {
    if (!Device::find(worker.device_id, worker.device)) give_up("devices-are-there");
    worker.device.route(static_cast<uint32_t>(&worker - workers));
  }
  for (unsigned i = 1; i < kProcessors; ++i)
    if (!check(start_processor(i, work), "processor-starts")) finish();
  work(0);
  check(wait_until([] { return processors_finished() == kProcessors - 1; }),
        "all-processors-finish");
  for (unsigned i = 0; i < kProcessors; ++i) {
    set_prefix(kNames[i]);
    check_equal(workers[i].good, rounds * kRequestsEach, "all-requests-are-answered");
    check(workers[i].interrupts != 0, "interrupts-arrive");
  }
  set_prefix("");
}

}  // namespace payload
