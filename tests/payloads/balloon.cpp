// SPDX-License-Identifier: Apache-2.0
// The balloon (virtio 1.2 §5.5). `pages=` on the command line: how many the host wants.
#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>

#include <cstring>

#include "tests/payloads/lib/arguments.h"
#include "tests/payloads/lib/cpu.h"
#include "tests/payloads/lib/device_checks.h"
#include "tests/payloads/lib/payload.h"
#include "tests/payloads/lib/report.h"
#include "tests/payloads/lib/time.h"

namespace payload {
namespace {

constexpr unsigned kInflate = 0;
constexpr unsigned kDeflate = 1;
constexpr uint32_t kPage = 4096;
// Memory that belongs to nobody, 2 MiB aligned, far above the payload.
constexpr uint64_t kSpare = 0x200'0000;
constexpr unsigned kPages = 64;

uint32_t frames[kPages];
Device balloon;

uint32_t frame_of(uint64_t address) { return static_cast<uint32_t>(address / kPage); }

bool works() {
  frames[0] = frame_of(kSpare);
  return queues[kInflate].request({readable(frames, 4)});
}

uint64_t word(uint64_t address) { return mmio_read64(address); }
void set_word(uint64_t address, uint64_t value) { mmio_write64(address, value); }

void dirty(unsigned pages) {
  for (unsigned i = 0; i < pages; ++i) set_word(kSpare + i * kPage, 0x1234'5678);
}

// Whether the host has taken the pages: they read as zeroes now.
bool are_gone(unsigned pages) {
  for (unsigned i = 0; i < pages; ++i)
    if (word(kSpare + i * kPage) != 0) return false;
  return true;
}

void check_configuration(const Subject& subject) {
  if (!check(start(subject), "starts")) return;
  const uint32_t wanted = balloon.config32(offsetof(virtio_balloon_config, num_pages));
  check_equal(wanted, argument("pages", wanted), "wanted-pages");
  mmio_write32(balloon.config_address() + offsetof(virtio_balloon_config, num_pages), ~wanted);
  check_equal(balloon.config32(offsetof(virtio_balloon_config, num_pages)), wanted,
              "wanted-pages-are-read-only");
  // §5.5.6: what the driver has given, by its own account.
  constexpr uint32_t kActual = offsetof(virtio_balloon_config, actual);
  mmio_write32(balloon.config_address() + kActual, kPages);
  check_equal(balloon.config32(kActual), kPages, "actual-pages-are-the-driver's");
  mmio_write32(balloon.config_address() + kActual, 0xffff'ffff);
  check_equal(balloon.config32(kActual), 0xffff'ffff, "actual-pages-may-be-nonsense");
  mmio_write32(balloon.config_address() + kActual, 0);
}

void check_inflate_and_deflate() {
  dirty(kPages);
  for (unsigned i = 0; i < kPages; ++i) frames[i] = frame_of(kSpare) + i;
  check(queues[kInflate].request({readable(frames, sizeof frames)}), "inflates");
  check(are_gone(kPages), "inflated-pages-are-gone");
  check(queues[kDeflate].request({readable(frames, sizeof frames)}), "deflates");
  dirty(kPages);
  check(word(kSpare + kPage) == 0x1234'5678, "deflated-pages-can-be-used");
  // Neither sorted nor adjacent, in two buffers, one page twice.
  frames[0] = frame_of(kSpare) + 5;
  frames[1] = frame_of(kSpare) + 1;
  frames[2] = frame_of(kSpare) + 1;
  check(queues[kInflate].request({readable(frames, 4), readable(frames + 1, 8)}),
        "inflates-scattered-pages");
  check(word(kSpare + 5 * kPage) == 0 && word(kSpare + kPage) == 0, "scattered-pages-are-gone");
  check(word(kSpare) == 0x1234'5678 && word(kSpare + 2 * kPage) == 0x1234'5678,
        "their-neighbours-are-kept");
}

// Page numbers that name no memory, and buffers that are no list: passed over, or a reset.
void check_bad_pages(const Subject& subject, const char* name, std::initializer_list<Buffer> parts,
                     unsigned index = kInflate) {
  start(subject);
  Virtqueue& queue = queues[index];
  queue.publish(queue.add(parts));
  queue.kick();
  check(wait_until([&] {
          return queue.has_used() || (balloon.status() & VIRTIO_CONFIG_S_NEEDS_RESET) != 0;
        }),
        name);
  check_works(subject, "works-afterwards");
}

void check_all_bad_pages(const Subject& subject) {
  set_prefix("bad-pages");
  frames[0] = 0xffff'ffff;
  frames[1] = frame_of(low_memory().start + low_memory().size);
  frames[2] = frame_of(argument("mmio", 0xd000'0000));
  check_bad_pages(subject, "no-memory-there", {readable(frames, 12)});
  check_bad_pages(subject, "no-memory-to-deflate", {readable(frames, 12)}, kDeflate);
  frames[0] = frame_of(kSpare);
  check_bad_pages(subject, "odd-size", {readable(frames, 7)});
  check_bad_pages(subject, "empty", {readable(frames, 0)});
  check_bad_pages(subject, "writable", {writable(frames, 8)});
  // A million page numbers, most of them 0 of no concern: the spare memory is all zeroes.
  check_bad_pages(subject, "huge-list", {{kSpare + 0x20'0000, 0x40'0000, 0}}, kDeflate);
  set_prefix("");
}

unsigned statistics_queue() { return 2; }

bool offers(unsigned bit) { return (balloon.offered_features() & feature(bit)) != 0; }

// §5.5.6.3: the device keeps the buffer until it wants new figures.
void check_statistics(const Subject& subject) {
  if (!offers(VIRTIO_BALLOON_F_STATS_VQ)) return;
  static virtio_balloon_stat statistics[3];
  start(subject);
  statistics[0] = {VIRTIO_BALLOON_S_MEMFREE, 1 << 20};
  statistics[1] = {VIRTIO_BALLOON_S_MEMTOT, 1 << 21};
  statistics[2] = {0xffff, UINT64_MAX};
  Virtqueue& queue = queues[statistics_queue()];
  queue.publish(queue.add({readable(statistics, sizeof statistics)}));
  queue.kick();
  UsedElement used;
  if (has_argument("polls-statistics")) {
    check(queue.wait_used(used), "statistics-are-polled");
    queue.publish(queue.add({readable(statistics, sizeof statistics)}));
    queue.kick();
    check(queue.wait_used(used), "statistics-are-polled-again");
  }
  check_works(subject, "works-after-statistics");
  // Two buffers at once, and one that is no list of figures.
  start(subject);
  queue.publish(queue.add({readable(statistics, 7)}));
  queue.publish(queue.add({readable(statistics, 0)}));
  queue.publish(queue.add({writable(statistics, sizeof statistics)}));
  queue.kick();
  pass_time();
  check_works(subject, "works-after-odd-statistics");
}

void check_reporting(const Subject& subject, unsigned index) {
  start(subject);
  dirty(kPages);
  Virtqueue& queue = queues[index];
  check(queue.request({{kSpare, kPages / 2 * kPage, kWrite}}), "free-pages-are-reported");
  check(are_gone(kPages / 2), "reported-pages-are-gone");
  check(word(kSpare + kPages / 2 * kPage) == 0x1234'5678, "pages-behind-are-kept");
  // Not whole pages, none at all, and the wrong direction.
  set_word(kSpare + kPage, 7);
  check_bad_pages(subject, "odd-report-is-answered", {{kSpare + 8, kPage, kWrite}}, index);
  check(word(kSpare + kPage) == 7, "odd-report-takes-no-neighbour");
  check_bad_pages(subject, "empty-report-is-answered", {{kSpare, 0, kWrite}}, index);
  check_bad_pages(subject, "readable-report-is-answered", {{kSpare, kPage, 0}}, index);
}

}  // namespace

void run() {
  if (!Device::find(VIRTIO_ID_BALLOON, balloon)) give_up("balloon-is-there");
  unsigned count = 2;
  if (offers(VIRTIO_BALLOON_F_STATS_VQ)) ++count;
  if (offers(VIRTIO_BALLOON_F_FREE_PAGE_HINT)) ++count;
  const unsigned reporting = count;
  if (offers(VIRTIO_BALLOON_F_REPORTING)) ++count;
  const Subject subject{.device = balloon, .queue_count = count, .queue = kInflate, .works = works};
  check_configuration(subject);
  check_inflate_and_deflate();
  check_all_bad_pages(subject);
  check_statistics(subject);
  if (offers(VIRTIO_BALLOON_F_REPORTING)) check_reporting(subject, reporting);
  check_device(subject);
}

}  // namespace payload
