// SPDX-License-Identifier: Apache-2.0
// The block device (virtio 1.2 §5.2). `capacity=`: sectors of the first disk, which starts as all
// zeroes. A second disk, where there is one, is read-only. Its content stays what it was.
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>

#include <cstring>

#include "tests/payloads/lib/arguments.h"
#include "tests/payloads/lib/device_checks.h"
#include "tests/payloads/lib/payload.h"
#include "tests/payloads/lib/report.h"
#include "tests/payloads/lib/time.h"

namespace payload {
namespace {

constexpr unsigned kRequests = 0;
constexpr size_t kSector = 512;
// Not one of the device's, so that an answer can be told from none.
constexpr uint8_t kNoStatus = 0xee;
constexpr uint64_t kSpare = 0x100'0000;
constexpr size_t kLarge = 16 * kSector;

Device disk;
virtio_blk_outhdr header;
uint8_t status;
alignas(16) uint8_t out[kLarge];
alignas(16) uint8_t in[kLarge];
uint64_t capacity;  // sectors

Virtqueue& queue() { return queues[kRequests]; }

Buffer header_of(uint32_t type, uint64_t sector) {
  header = {};
  header.type = type;
  header.sector = sector;
  status = kNoStatus;
  return readable(&header, sizeof header);
}

bool needs_reset() { return (disk.status() & VIRTIO_CONFIG_S_NEEDS_RESET) != 0; }

// What the device says; kNoStatus when it says nothing.
uint8_t transfer(uint32_t type, uint64_t sector, const Buffer& data) {
  const Buffer head = header_of(type, sector);
  if (!queue().request({head, data, writable(&status, 1)})) return kNoStatus;
  return status;
}

uint8_t write_sectors(uint64_t sector, size_t size) {
  return transfer(VIRTIO_BLK_T_OUT, sector, readable(out, size));
}
uint8_t read_sectors(uint64_t sector, size_t size) {
  memset(in, 0xaa, size);
  return transfer(VIRTIO_BLK_T_IN, sector, writable(in, size));
}

void fill_out(uint8_t seed, size_t size) {
  memset(out, seed, size);
  for (size_t i = 0; i < size; i += 64) out[i] = static_cast<uint8_t>(seed + i / 64);
}

bool is_zero(const uint8_t* bytes, size_t size) {
  for (size_t i = 0; i < size; i += 8)
    if (*reinterpret_cast<const uint64_t*>(bytes + i) != 0) return false;
  return true;
}

bool works() { return read_sectors(0, kSector) == VIRTIO_BLK_S_OK; }

void check_configuration(const Subject& subject) {
  if (!check(start(subject), "starts")) return;
  capacity = disk.config64(0);
  check_equal(capacity, argument("capacity", capacity), "capacity");
  // The capacity is not the driver's (§5.2.4).
  mmio_write32(disk.config_address(), 1);
  mmio_write8(disk.config_address() + 4, 1);
  check_equal(disk.config64(0), capacity, "capacity-is-read-only");
  if ((disk.offered_features() & feature(VIRTIO_BLK_F_CONFIG_WCE)) == 0) return;
  constexpr uint32_t kWce = offsetof(virtio_blk_config, wce);
  mmio_write8(disk.config_address() + kWce, 0);
  check_equal(disk.config8(kWce), 0, "write-through-can-be-chosen");
  mmio_write8(disk.config_address() + kWce, 1);
  check_equal(disk.config8(kWce), 1, "write-back-can-be-chosen");
}

void check_read_and_write() {
  fill_out(1, kSector);
  check_equal(write_sectors(3, kSector), VIRTIO_BLK_S_OK, "writes-a-sector");
  check(read_sectors(3, kSector) == VIRTIO_BLK_S_OK && memcmp(in, out, kSector) == 0,
        "reads-it-back");
  check(read_sectors(2, kSector) == VIRTIO_BLK_S_OK && is_zero(in, kSector),
        "sector-before-is-kept");
  check(read_sectors(4, kSector) == VIRTIO_BLK_S_OK && is_zero(in, kSector),
        "sector-behind-is-kept");
  fill_out(7, kLarge);
  check_equal(write_sectors(16, kLarge), VIRTIO_BLK_S_OK, "writes-16-sectors");
  check(read_sectors(16, kLarge) == VIRTIO_BLK_S_OK && memcmp(in, out, kLarge) == 0,
        "reads-16-sectors");
  check_equal(write_sectors(capacity - 1, kSector), VIRTIO_BLK_S_OK, "writes-the-last-sector");
  UsedElement used;
  Buffer head = header_of(VIRTIO_BLK_T_FLUSH, 0);
  check(queue().request({head, writable(&status, 1)}, used) && status == VIRTIO_BLK_S_OK &&
            used.written == 1,
        "flushes");
  head = header_of(VIRTIO_BLK_T_IN, 16);
  check(queue().request({head, writable(in, kSector), writable(&status, 1)}, used) &&
            used.written == kSector + 1,
        "used-length-of-a-read");
}

// A driver may cut a request where it likes (§2.7.4).
void check_framing() {
  auto* bytes = reinterpret_cast<uint8_t*>(&header);
  fill_out(9, 2 * kSector);
  header_of(VIRTIO_BLK_T_OUT, 40);
  check(queue().request({readable(bytes, 3), readable(bytes + 3, sizeof header - 3),
                         readable(out, 100), readable(out + 100, 2 * kSector - 100),
                         writable(&status, 1)}) &&
            status == VIRTIO_BLK_S_OK,
        "write-in-odd-pieces");
  struct {
    uint8_t data[2 * kSector];
    uint8_t status;
  } answer;
  answer.status = kNoStatus;
  const Buffer head = header_of(VIRTIO_BLK_T_IN, 40);
  check(queue().request({head, writable(&answer, 2 * kSector + 1)}) &&
            answer.status == VIRTIO_BLK_S_OK && memcmp(answer.data, out, 2 * kSector) == 0,
        "status-in-the-buffer-of-the-data");
  struct {
    virtio_blk_outhdr header;
    uint8_t data[kSector];
  } whole;
  header_of(VIRTIO_BLK_T_OUT, 42);
  whole.header = header;
  memcpy(whole.data, out, kSector);
  check(queue().request({readable(&whole, sizeof whole), writable(&status, 1)}) &&
            status == VIRTIO_BLK_S_OK && read_sectors(42, kSector) == VIRTIO_BLK_S_OK &&
            memcmp(in, out, kSector) == 0,
        "header-in-the-buffer-of-the-data");
  static Descriptor table[3];
  header_of(VIRTIO_BLK_T_IN, 42);
  memset(in, 0, kSector);
  table[0] = {reinterpret_cast<uint64_t>(&header), sizeof header, kNext, 2};
  table[1] = {reinterpret_cast<uint64_t>(&status), 1, kWrite, 0};
  table[2] = {reinterpret_cast<uint64_t>(in), kSector, kNext | kWrite, 1};
  check(queue().request({{reinterpret_cast<uint64_t>(table), sizeof table, kIndirect}}) &&
            status == VIRTIO_BLK_S_OK && memcmp(in, out, kSector) == 0,
        "indirect-request");
}

void check_batch() {
  static virtio_blk_outhdr headers[5];
  static uint8_t statuses[5];
  for (unsigned i = 0; i < 5; ++i) {
    headers[i] = {};
    headers[i].type = VIRTIO_BLK_T_IN;
    headers[i].sector = 16 + i;
    statuses[i] = kNoStatus;
    queue().publish(queue().add({readable(&headers[i], sizeof headers[i]),
                                 writable(in + i * kSector, kSector), writable(&statuses[i], 1)}));
  }
  queue().kick();
  UsedElement used;
  bool good = true;
  for (unsigned i = 0; i < 5 && good; ++i) good = queue().wait_used(used);
  for (const uint8_t each : statuses) good = good && each == VIRTIO_BLK_S_OK;
  fill_out(7, kLarge);
  check(good && memcmp(in, out, 5 * kSector) == 0, "five-at-once");
}

void check_identity() {
  char serial[VIRTIO_BLK_ID_BYTES];
  memset(serial, 0x55, sizeof serial);
  check_equal(transfer(VIRTIO_BLK_T_GET_ID, 0, writable(serial, sizeof serial)), VIRTIO_BLK_S_OK,
              "gets-the-serial");
  check(memcmp(serial, "payload-disk\0\0\0\0\0\0\0\0", sizeof serial) == 0,
        "serial-is-the-drive's");
}

// Refused requests: with an error status and nothing written.
void check_errors() {
  set_prefix("errors");
  check_equal(read_sectors(capacity, kSector), VIRTIO_BLK_S_IOERR, "read-past-the-end");
  check_equal(read_sectors(capacity - 1, 2 * kSector), VIRTIO_BLK_S_IOERR, "read-across-the-end");
  check_equal(write_sectors(capacity, kSector), VIRTIO_BLK_S_IOERR, "write-past-the-end");
  check_equal(read_sectors(UINT64_MAX, kSector), VIRTIO_BLK_S_IOERR, "sector-is-the-largest");
  check_equal(read_sectors(UINT64_MAX / kSector, 2 * kSector), VIRTIO_BLK_S_IOERR,
              "offset-overflows");
  check_equal(write_sectors(uint64_t{1} << 55, kSector), VIRTIO_BLK_S_IOERR, "offset-wraps-to-0");
  check_equal(transfer(0x1234, 0, writable(in, kSector)), VIRTIO_BLK_S_UNSUPP, "unknown-type");
  check_equal(transfer(VIRTIO_BLK_T_IN, 0, writable(in, 100)), VIRTIO_BLK_S_IOERR,
              "read-of-no-whole-sectors");
  fill_out(3, kSector + 1);
  check_equal(transfer(VIRTIO_BLK_T_OUT, 5, readable(out, kSector + 1)), VIRTIO_BLK_S_IOERR,
              "write-of-no-whole-sectors");
  check(read_sectors(5, kSector) == VIRTIO_BLK_S_OK && is_zero(in, kSector),
        "refused-write-wrote-nothing");
  check_equal(transfer(VIRTIO_BLK_T_IN, 0, {kSpare, 0x300'0000, kWrite}), VIRTIO_BLK_S_IOERR,
              "read-of-more-than-the-disk");
  set_prefix("");
}

// What has an error status or a reset as its answer, but always one of them.
void check_malformed(const Subject& subject, const char* name,
                     std::initializer_list<Buffer> parts) {
  if (!check(start(subject), name)) return;
  status = kNoStatus;
  queue().publish(queue().add(parts));
  queue().kick();
  check(wait_until([] { return queue().has_used() || needs_reset(); }), "is-answered");
  check(status != VIRTIO_BLK_S_OK, "is-not-ok");
  check_works(subject, "works-afterwards");
}

void check_all_malformed(const Subject& subject) {
  set_prefix("malformed");
  header_of(VIRTIO_BLK_T_IN, 0);
  check_malformed(subject, "read-into-readable",
                  {readable(&header, sizeof header), readable(in, kSector), writable(&status, 1)});
  header_of(VIRTIO_BLK_T_OUT, 5);
  check_malformed(subject, "write-from-writable",
                  {readable(&header, sizeof header), writable(in, kSector), writable(&status, 1)});
  header_of(VIRTIO_BLK_T_IN, 0);
  check_malformed(subject, "short-header", {readable(&header, 8), writable(&status, 1)});
  check_malformed(subject, "no-header", {writable(in, kSector), writable(&status, 1)});
  header_of(VIRTIO_BLK_T_IN, 0);
  check_malformed(subject, "no-status", {readable(&header, sizeof header)});
  header_of(VIRTIO_BLK_T_OUT, 5);
  check_malformed(subject, "write-without-status",
                  {readable(&header, sizeof header), readable(out, kSector)});
  check_malformed(subject, "status-of-size-0",
                  {readable(&header, sizeof header), writable(&status, 0)});
  check_malformed(subject, "nothing-but-empty-buffers", {readable(&header, 0), writable(in, 0)});
  set_prefix("");
  start(subject);
  check(read_sectors(5, kSector) == VIRTIO_BLK_S_OK && is_zero(in, kSector),
        "malformed-requests-wrote-nothing");
}

uint8_t ranges(uint32_t type, const virtio_blk_discard_write_zeroes* segments, size_t size) {
  return transfer(type, 0, readable(segments, size));
}

void check_discard_and_zeroes() {
  const uint64_t offered = disk.offered_features();
  virtio_blk_discard_write_zeroes segment{};
  segment.sector = 18;
  segment.num_sectors = 2;
  fill_out(5, 4 * kSector);
  if ((offered & feature(VIRTIO_BLK_F_WRITE_ZEROES)) != 0) {
    write_sectors(17, 4 * kSector);
    check_equal(ranges(VIRTIO_BLK_T_WRITE_ZEROES, &segment, sizeof segment), VIRTIO_BLK_S_OK,
                "writes-zeroes");
    check(read_sectors(17, 4 * kSector) == VIRTIO_BLK_S_OK && memcmp(in, out, kSector) == 0 &&
              is_zero(in + kSector, 2 * kSector) &&
              memcmp(in + 3 * kSector, out + 3 * kSector, kSector) == 0,
          "zeroes-are-where-they-belong");
    segment.sector = capacity - 1;
    check_equal(ranges(VIRTIO_BLK_T_WRITE_ZEROES, &segment, sizeof segment), VIRTIO_BLK_S_IOERR,
                "zeroes-across-the-end");
    segment.sector = 18;
    segment.flags = 0x80;
    check_equal(ranges(VIRTIO_BLK_T_WRITE_ZEROES, &segment, sizeof segment), VIRTIO_BLK_S_UNSUPP,
                "zeroes-with-unknown-flags");
    segment.flags = 0;
  }
  if ((offered & feature(VIRTIO_BLK_F_DISCARD)) == 0) return;
  check_equal(ranges(VIRTIO_BLK_T_DISCARD, &segment, sizeof segment), VIRTIO_BLK_S_OK, "discards");
  check_equal(ranges(VIRTIO_BLK_T_DISCARD, &segment, 7), VIRTIO_BLK_S_IOERR, "discard-of-7-bytes");
  // §5.2.6.2: UNMAP is for write zeroes only.
  segment.flags = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
  check_equal(ranges(VIRTIO_BLK_T_DISCARD, &segment, sizeof segment), VIRTIO_BLK_S_UNSUPP,
              "discard-with-unmap");
  segment.flags = 0;
  segment.sector = UINT64_MAX;
  check_equal(ranges(VIRTIO_BLK_T_DISCARD, &segment, sizeof segment), VIRTIO_BLK_S_IOERR,
              "discard-past-the-end");
  segment.sector = 0;
  segment.num_sectors = 0xffff'ffff;
  check_equal(ranges(VIRTIO_BLK_T_DISCARD, &segment, sizeof segment), VIRTIO_BLK_S_IOERR,
              "discard-of-too-much");
}

// A reset takes the buffers back, whatever the disk was doing with them.
void check_reset_while_reading(const Subject& subject) {
  bool good = true;
  for (unsigned round = 0; round < 5 && good; ++round) {
    good = start(subject);
    const Buffer head = header_of(VIRTIO_BLK_T_IN, 16);
    queue().publish(queue().add({head, writable(in, kLarge), writable(&status, 1)}));
    queue().kick();
    good = good && disk.reset();
    memset(in, 0x5a, kLarge);
    pass_time(kMoment / 10);
    for (size_t i = 0; i < kLarge && good; i += kSector) good = in[i] == 0x5a;
  }
  check(good, "reset-takes-buffers-back");
  check_works(subject, "works-after-reset-while-reading");
}

void check_read_only_disk() {
  Subject subject{.queue_count = 1, .queue = kRequests, .works = works};
  if (!Device::find(VIRTIO_ID_BLOCK, disk, 1)) return;
  subject.device = disk;
  set_prefix("read-only");
  check((disk.offered_features() & feature(VIRTIO_BLK_F_RO)) != 0, "offers-ro");
  if (!check(start(subject), "starts")) return;
  check_equal(read_sectors(0, kSector), VIRTIO_BLK_S_OK, "reads");
  fill_out(in[0] + 1U, kSector);
  check_equal(write_sectors(0, kSector), VIRTIO_BLK_S_IOERR, "write-is-refused");
  // Read-only in the device, not by a feature that the driver agrees to.
  check(start(subject, kVersion1), "starts-without-agreeing-to-ro");
  check_equal(write_sectors(0, kSector), VIRTIO_BLK_S_IOERR, "write-is-still-refused");
  virtio_blk_discard_write_zeroes segment{};
  segment.num_sectors = 1;
  check(ranges(VIRTIO_BLK_T_WRITE_ZEROES, &segment, sizeof segment) != VIRTIO_BLK_S_OK,
        "write-zeroes-is-refused");
  check(ranges(VIRTIO_BLK_T_DISCARD, &segment, sizeof segment) != VIRTIO_BLK_S_OK,
        "discard-is-refused");
  check(read_sectors(0, kSector) == VIRTIO_BLK_S_OK && in[0] != out[0], "content-is-kept");
  set_prefix("");
}

}  // namespace

void run() {
  Subject subject{.queue_count = 1, .queue = kRequests, .works = works};
  if (!Device::find(VIRTIO_ID_BLOCK, disk)) give_up("block-is-there");
  subject.device = disk;
  check_configuration(subject);
  check_read_and_write();
  check_framing();
  check_batch();
  check_identity();
  check_errors();
  check_discard_and_zeroes();
  check_all_malformed(subject);
  check_reset_while_reading(subject);
  check_device(subject);
  check_read_only_disk();
}

}  // namespace payload
