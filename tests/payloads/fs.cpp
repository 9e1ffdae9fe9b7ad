// SPDX-License-Identifier: Apache-2.0
// The file system device (virtio 1.2 §5.11) behind a vhost-user server: FUSE from INIT to a lookup
// in the root, which holds `entry`; the device's tag is `kiln`.
#include <linux/fuse.h>
#include <linux/virtio_fs.h>
#include <linux/virtio_ids.h>

#include <cstring>

#include "tests/payloads/lib/device_checks.h"
#include "tests/payloads/lib/payload.h"
#include "tests/payloads/lib/report.h"
#include "tests/payloads/lib/time.h"

namespace payload {
namespace {

constexpr unsigned kPriority = 0;
constexpr unsigned kRequests = 1;
constexpr int32_t kNoAnswer = 1;
constexpr int32_t kNoEntry = 2;          // ENOENT
constexpr int32_t kNotImplemented = 38;  // ENOSYS
constexpr uint64_t kSpare = 0x100'0000;

struct {
  fuse_in_header header;
  char body[256];
} in;
struct {
  fuse_out_header header;
  char body[512];
} out;
uint64_t unique = 1;

Virtqueue& queue() { return queues[kRequests]; }

void make(uint32_t opcode, uint64_t node, const void* body, uint32_t size) {
  in.header = {};
  in.header.len = sizeof in.header + size;
  in.header.opcode = opcode;
  in.header.unique = ++unique;
  in.header.nodeid = node;
  memcpy(in.body, body, size);
  memset(&out, 0xff, sizeof out.header + 16);
}

// The answer's errno as FUSE has it (negative), 0 for success, kNoAnswer for none that fits.
int32_t exchange() {
  UsedElement used;
  if (!queue().request({readable(&in, in.header.len), writable(&out, sizeof out)}, used))
    return kNoAnswer;
  if (used.written < sizeof out.header || out.header.len != used.written ||
      out.header.unique != in.header.unique)
    return kNoAnswer;
  return out.header.error;
}

int32_t initialize() {
  fuse_init_in init{};
  init.major = FUSE_KERNEL_VERSION;
  init.minor = 38;
  init.max_readahead = 0x20000;
  make(FUSE_INIT, 0, &init, sizeof init);
  return exchange();
}

bool works() {
  if (initialize() != 0) return false;
  const auto& answer = *reinterpret_cast<const fuse_init_out*>(out.body);
  return answer.major == FUSE_KERNEL_VERSION;
}

int32_t look_up(const char* name, uint32_t size) {
  make(FUSE_LOOKUP, FUSE_ROOT_ID, name, size);
  return exchange();
}

void check_configuration(const Subject& subject) {
  char tag[36];
  for (uint32_t i = 0; i < sizeof tag; ++i) tag[i] = static_cast<char>(subject.device.config8(i));
  static const char expected[36] = "kiln";
  check(memcmp(tag, expected, sizeof tag) == 0, "tag-is-the-configured-one");
  check_equal(subject.device.config32(36), 1, "has-one-request-queue");
  mmio_write32(subject.device.config_address(), 0);
  check_equal(subject.device.config8(0), 'k', "tag-is-read-only");
}

void check_session(const Subject& subject) {
  if (!check(start(subject), "starts")) return;
  check(works(), "initializes");
  fuse_getattr_in getattr{};
  make(FUSE_GETATTR, FUSE_ROOT_ID, &getattr, sizeof getattr);
  check_equal(static_cast<uint32_t>(exchange()), 0, "root-has-attributes");
  const auto& attributes = *reinterpret_cast<const fuse_attr_out*>(out.body);
  check_equal(attributes.attr.mode & 0170000, 0040000, "root-is-a-directory");
  check_equal(static_cast<uint32_t>(look_up("entry", 6)), 0, "finds-the-entry");
  const auto& entry = *reinterpret_cast<const fuse_entry_out*>(out.body);
  check(entry.nodeid != 0 && entry.nodeid != FUSE_ROOT_ID, "entry-has-a-node");
  check_equal(static_cast<uint32_t>(look_up("nothing", 8)), static_cast<uint32_t>(-kNoEntry),
              "finds-nothing-else");
  const fuse_forget_in forget{1};
  make(FUSE_FORGET, entry.nodeid, &forget, sizeof forget);
  check(queues[kPriority].request({readable(&in, in.header.len)}), "forgets-by-the-priority-queue");
  // In odd pieces, both ways.
  make(FUSE_LOOKUP, FUSE_ROOT_ID, "entry", 6);
  auto* bytes = reinterpret_cast<uint8_t*>(&in);
  auto* answer = reinterpret_cast<uint8_t*>(&out);
  check(queue().request({readable(bytes, 3), readable(bytes + 3, 40), readable(bytes + 43, 3),
                         writable(answer, 5), writable(answer + 5, sizeof out - 5)}) &&
            out.header.error == 0,
        "request-in-odd-pieces");
}

void check_refused(const Subject& subject) {
  set_prefix("refused");
  if (!check(start(subject) && works(), "starts")) return;
  make(4000, FUSE_ROOT_ID, "", 0);
  check_equal(static_cast<uint32_t>(exchange()), static_cast<uint32_t>(-kNotImplemented),
              "unknown-operation");
  check(look_up("..", 3) < 0, "parent-of-the-root");
  check(look_up("a/b", 4) < 0, "name-with-a-slash");
  check(look_up("", 1) < 0, "empty-name");
  check(look_up("entry", 5) < 0, "name-without-an-end");
  make(FUSE_LOOKUP, 0xdead'beef'0000'0001, "entry", 6);
  check(exchange() < 0, "unknown-node");
  fuse_read_in read{};
  make(FUSE_READ, FUSE_ROOT_ID, &read, 4);
  check(exchange() < 0, "body-that-is-too-short");
  read.size = 0xffff'ffff;
  read.fh = 0x1234;
  make(FUSE_READ, FUSE_ROOT_ID, &read, sizeof read);
  check(exchange() < 0, "read-of-an-unknown-handle");
  set_prefix("");
}

// No answer fits, or none is owed: used with what there is, or a reset.
void check_malformed(const Subject& subject, const char* name,
                     std::initializer_list<Buffer> parts) {
  if (!check(start(subject) && works(), "starts")) return;
  queue().publish(queue().add(parts));
  queue().kick();
  check(wait_until([&] {
          return queue().has_used() || (subject.device.status() & VIRTIO_CONFIG_S_NEEDS_RESET) != 0;
        }),
        name);
  check_works(subject, "works-afterwards");
}

void check_all_malformed(const Subject& subject) {
  set_prefix("malformed");
  make(FUSE_LOOKUP, FUSE_ROOT_ID, "entry", 6);
  check_malformed(subject, "no-room-for-an-answer", {readable(&in, in.header.len)});
  check_malformed(subject, "answer-of-4-bytes", {readable(&in, in.header.len), writable(&out, 4)});
  check_malformed(subject, "half-a-header", {readable(&in, 10), writable(&out, sizeof out)});
  check_malformed(subject, "no-request", {writable(&out, sizeof out)});
  check_malformed(subject, "empty", {readable(&in, 0), writable(&out, 0)});
  in.header.len = 0xffff'ffff;
  check_malformed(subject, "length-above-the-chain",
                  {readable(&in, sizeof in.header + 6), writable(&out, sizeof out)});
  in.header.len = 3;
  check_malformed(subject, "length-below-a-header",
                  {readable(&in, sizeof in.header + 6), writable(&out, sizeof out)});
  make(FUSE_LOOKUP, FUSE_ROOT_ID, "entry", 6);
  check_malformed(subject, "8-mebibytes-of-request",
                  {readable(&in, in.header.len), {kSpare, 8 << 20, 0}, writable(&out, sizeof out)});
  set_prefix("");
  // Nothing but INIT is answered before INIT.
  if (!check(start(subject), "starts-without-init")) return;
  check(look_up("entry", 6) != 0, "lookup-before-init-fails");
  check_works(subject, "works-after-lookup-before-init");
}

}  // namespace

void run() {
  Subject subject{.queue_count = 2, .queue = kRequests, .works = works, .served_remotely = true};
  if (!Device::find(VIRTIO_ID_FS, subject.device)) give_up("fs-is-there");
  check_configuration(subject);
  check_session(subject);
  check_refused(subject);
  check_all_malformed(subject);
  check_device(subject);
}

}  // namespace payload
