// SPDX-License-Identifier: Apache-2.0
// The socket device (virtio 1.2 §5.10). The host echoes on port 5000 and has nobody on port 9; with
// `host-connects` it connects to the guest's port 4000, sends `ping` and wants `pong`.
#include <linux/virtio_ids.h>
#include <linux/virtio_vsock.h>

#include <cstring>

#include "tests/payloads/lib/arguments.h"
#include "tests/payloads/lib/device_checks.h"
#include "tests/payloads/lib/payload.h"
#include "tests/payloads/lib/report.h"
#include "tests/payloads/lib/time.h"

namespace payload {
namespace {

constexpr unsigned kReceive = 0;
constexpr unsigned kTransmit = 1;
constexpr uint64_t kHost = 2;
constexpr uint32_t kEchoPort = 5000;
constexpr uint32_t kNobodysPort = 9;
constexpr uint32_t kGuestPort = 4000;
constexpr uint32_t kCredit = 0x1'0000;
constexpr uint64_t kSpare = 0x100'0000;
constexpr unsigned kReceiveBuffers = 8;
constexpr uint32_t kPayloadSize = 512;

struct Packet {
  virtio_vsock_hdr header;
  char data[kPayloadSize];
};

Device device;
uint64_t guest_cid;
Packet received[kReceiveBuffers];
Packet outgoing;

void post_receive_buffers() {
  Virtqueue& queue = queues[kReceive];
  for (Packet& packet : received) queue.publish(queue.add({writable(&packet, sizeof packet)}));
  queue.kick();
}

void make(uint16_t operation, uint32_t host_port, uint32_t guest_port, const char* data,
          uint32_t size) {
  outgoing = {};
  outgoing.header.src_cid = guest_cid;
  outgoing.header.dst_cid = kHost;
  outgoing.header.src_port = guest_port;
  outgoing.header.dst_port = host_port;
  outgoing.header.len = size;
  outgoing.header.type = VIRTIO_VSOCK_TYPE_STREAM;
  outgoing.header.op = operation;
  outgoing.header.buf_alloc = kCredit;
  memcpy(outgoing.data, data, size);
}

bool transmit() {
  return queues[kTransmit].request(
      {readable(&outgoing, sizeof outgoing.header + outgoing.header.len)});
}

bool send(uint16_t operation, uint32_t host_port, uint32_t guest_port, const char* data = "",
          uint32_t size = 0) {
  make(operation, host_port, guest_port, data, size);
  return transmit();
}

// The next packet to `guest_port` of one of these operations; others (credit) go by. Copied, its
// buffer given back.
bool receive(uint32_t guest_port, uint16_t operation, Packet& packet) {
  Virtqueue& queue = queues[kReceive];
  for (unsigned i = 0; i < 32; ++i) {
    UsedElement used;
    if (!queue.wait_used(used) || used.id >= kReceiveBuffers) return false;
    packet = received[used.id];
    queue.publish(static_cast<uint16_t>(used.id));
    queue.kick();
    if (packet.header.dst_port == guest_port && packet.header.op == operation)
      return packet.header.src_cid == kHost && packet.header.dst_cid == guest_cid;
  }
  return false;
}

bool receive(uint32_t guest_port, uint16_t operation) {
  static Packet packet;
  return receive(guest_port, operation, packet);
}

uint32_t next_guest_port = 2000;

// A port where nobody listens: answered by RST, which needs no one outside the device.
bool works() {
  if (queues[kReceive].available_index() == 0) post_receive_buffers();
  const uint32_t port = next_guest_port++;
  return send(VIRTIO_VSOCK_OP_REQUEST, kNobodysPort, port) && receive(port, VIRTIO_VSOCK_OP_RST);
}

bool start_with_buffers(const Subject& subject) {
  if (!start(subject)) return false;
  post_receive_buffers();
  return true;
}

void check_echo() {
  static Packet packet;
  const uint32_t port = next_guest_port++;
  if (!check(send(VIRTIO_VSOCK_OP_REQUEST, kEchoPort, port) &&
                 receive(port, VIRTIO_VSOCK_OP_RESPONSE, packet),
             "connects-to-the-host"))
    return;
  check(packet.header.buf_alloc > 0, "host-gives-credit");
  check(send(VIRTIO_VSOCK_OP_RW, kEchoPort, port, "hello host", 10) &&
            receive(port, VIRTIO_VSOCK_OP_RW, packet) && packet.header.len == 10 &&
            memcmp(packet.data, "hello host", 10) == 0,
        "bytes-come-back");
  check(send(VIRTIO_VSOCK_OP_CREDIT_REQUEST, kEchoPort, port) &&
            receive(port, VIRTIO_VSOCK_OP_CREDIT_UPDATE, packet) && packet.header.fwd_cnt == 10,
        "credit-request-is-answered");
  // §5.10.6.5: both directions shut down, answered by RST.
  make(VIRTIO_VSOCK_OP_SHUTDOWN, kEchoPort, port, "", 0);
  outgoing.header.flags = VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND;
  check(transmit() && receive(port, VIRTIO_VSOCK_OP_RST), "shutdown-is-answered");
}

void check_no_credit() {
  static Packet packet;
  const uint32_t port = next_guest_port++;
  make(VIRTIO_VSOCK_OP_REQUEST, kEchoPort, port, "", 0);
  outgoing.header.buf_alloc = 4;
  check(transmit() && receive(port, VIRTIO_VSOCK_OP_RESPONSE), "connects-with-little-credit");
  make(VIRTIO_VSOCK_OP_RW, kEchoPort, port, "12345678", 8);
  outgoing.header.buf_alloc = 4;
  check(transmit() && receive(port, VIRTIO_VSOCK_OP_RW, packet) && packet.header.len == 4,
        "host-keeps-to-the-credit");
  make(VIRTIO_VSOCK_OP_CREDIT_UPDATE, kEchoPort, port, "", 0);
  outgoing.header.buf_alloc = 4;
  outgoing.header.fwd_cnt = 4;
  check(transmit() && receive(port, VIRTIO_VSOCK_OP_RW, packet) && packet.header.len == 4 &&
            memcmp(packet.data, "5678", 4) == 0,
        "new-credit-brings-the-rest");
  check(send(VIRTIO_VSOCK_OP_RST, kEchoPort, port), "resets");
}

void check_host_connects() {
  if (!has_argument("host-connects")) return;
  static Packet packet;
  print("ready for the host\n");
  if (!check(receive(kGuestPort, VIRTIO_VSOCK_OP_REQUEST, packet), "host-asks")) return;
  const uint32_t host_port = packet.header.src_port;
  check(send(VIRTIO_VSOCK_OP_RESPONSE, host_port, kGuestPort) &&
            receive(kGuestPort, VIRTIO_VSOCK_OP_RW, packet) && memcmp(packet.data, "ping", 4) == 0,
        "host's-bytes-arrive");
  check(send(VIRTIO_VSOCK_OP_RW, host_port, kGuestPort, "pong", 4), "answers-the-host");
  check(receive(kGuestPort, VIRTIO_VSOCK_OP_SHUTDOWN), "host-hangs-up");
  send(VIRTIO_VSOCK_OP_RST, host_port, kGuestPort);
}

// Packets that fit no connection get RST.
void check_refused(const Subject& subject) {
  set_prefix("refused");
  if (!check(start_with_buffers(subject), "starts")) return;
  check(send(VIRTIO_VSOCK_OP_RW, kEchoPort, 77, "x", 1) && receive(77, VIRTIO_VSOCK_OP_RST),
        "data-without-connection");
  check(send(VIRTIO_VSOCK_OP_RESPONSE, kEchoPort, 78) && receive(78, VIRTIO_VSOCK_OP_RST),
        "response-without-request");
  check(send(0x77, kEchoPort, 79) && receive(79, VIRTIO_VSOCK_OP_RST), "unknown-operation");
  make(VIRTIO_VSOCK_OP_REQUEST, kEchoPort, 80, "", 0);
  outgoing.header.type = 0x55;
  check(transmit() && receive(80, VIRTIO_VSOCK_OP_RST), "unknown-type");
  // A second request on a connection ends it.
  check(send(VIRTIO_VSOCK_OP_REQUEST, kEchoPort, 81) && receive(81, VIRTIO_VSOCK_OP_RESPONSE) &&
            send(VIRTIO_VSOCK_OP_REQUEST, kEchoPort, 81) && receive(81, VIRTIO_VSOCK_OP_RST),
        "second-request");
  set_prefix("");
}

// Packets that say nothing: taken back, nothing else happens.
void check_dropped(const Subject& subject) {
  set_prefix("dropped");
  if (!check(start_with_buffers(subject), "starts")) return;
  Virtqueue& queue = queues[kTransmit];
  make(VIRTIO_VSOCK_OP_REQUEST, kEchoPort, 90, "", 0);
  outgoing.header.src_cid = guest_cid + 1;
  check(transmit(), "foreign-source");
  check(queue.request({readable(&outgoing, 20)}), "half-a-header");
  check(queue.request({readable(&outgoing, 0)}), "empty");
  check(queue.request({writable(&received[0], 8)}), "writable");
  make(VIRTIO_VSOCK_OP_RST, kEchoPort, 91, "", 0);
  check(transmit(), "reset-of-no-connection");
  pass_time();
  check(!queues[kReceive].has_used(), "nothing-comes-of-it");
  check(works(), "works-afterwards");
  set_prefix("");
}

// A length that the chain does not have, and lengths far above the credit.
void check_lengths(const Subject& subject) {
  set_prefix("lengths");
  static constexpr uint32_t kLengths[] = {1, 0x7fff'ffff, 0xffff'ffff};
  for (const uint32_t length : kLengths) {
    if (!check(start_with_buffers(subject), "starts")) return;
    const uint32_t port = next_guest_port++;
    check(send(VIRTIO_VSOCK_OP_REQUEST, kEchoPort, port) && receive(port, VIRTIO_VSOCK_OP_RESPONSE),
          "connects");
    make(VIRTIO_VSOCK_OP_RW, kEchoPort, port, "", 0);
    outgoing.header.len = length;
    check(queues[kTransmit].request({readable(&outgoing, sizeof outgoing.header)}),
          "longer-than-the-chain");
    check_works(subject, "works-afterwards");
  }
  start_with_buffers(subject);
  make(VIRTIO_VSOCK_OP_RW, kEchoPort, 3000, "", 0);
  outgoing.header.len = 8 << 20;
  check(queues[kTransmit].request(
            {readable(&outgoing, sizeof outgoing.header), {kSpare, 8 << 20, 0}}),
        "8-mebibytes-at-once");
  check_works(subject, "works-after-8-mebibytes");
  set_prefix("");
}

// Receive buffers that take no packet: the driver has broken its queue.
void check_bad_receive_buffer(const Subject& subject, const char* name, const Buffer& buffer) {
  start(subject);
  Virtqueue& queue = queues[kReceive];
  queue.publish(queue.add({buffer}));
  queue.kick();
  send(VIRTIO_VSOCK_OP_REQUEST, kNobodysPort, 92);
  check(device.wait_for_needs_reset(), name);
  check_works(subject, "works-afterwards");
}

void check_bad_receive_buffers(const Subject& subject) {
  set_prefix("bad-receive-buffer");
  const uint64_t past = low_memory().start + low_memory().size;
  check_bad_receive_buffer(subject, "readable", readable(&received[0], sizeof received[0]));
  check_bad_receive_buffer(subject, "too-small", writable(&received[0], 20));
  check_bad_receive_buffer(subject, "past-memory", {past, 4096, kWrite});
  check_bad_receive_buffer(subject, "wraps", {UINT64_MAX - 100, 4096, kWrite});
  set_prefix("");
}

// Many connections that are not answered, then a reset: the host lets go of all of them.
void check_many(const Subject& subject) {
  if (!check(start_with_buffers(subject), "starts-for-many")) return;
  bool good = true;
  for (uint32_t i = 0; i < 40 && good; ++i)
    good = send(VIRTIO_VSOCK_OP_REQUEST, kEchoPort, 10'000 + i) &&
           receive(10'000 + i, VIRTIO_VSOCK_OP_RESPONSE);
  check(good, "has-40-connections");
  check_works(subject, "works-after-reset-with-connections");
}

}  // namespace

void run() {
  Subject subject{.queue_count = 3, .queue = kTransmit, .works = works};
  if (!Device::find(VIRTIO_ID_VSOCK, device)) give_up("vsock-is-there");
  subject.device = device;
  guest_cid = device.config64(0);
  check_equal(guest_cid, argument("cid", 3), "guest-cid");
  if (!check(start_with_buffers(subject), "starts")) return;
  mmio_write32(device.config_address(), 77);
  check_equal(device.config64(0), guest_cid, "guest-cid-is-read-only");
  check(works(), "nobody's-port-is-refused");
  check_echo();
  check_no_credit();
  check_host_connects();
  check_refused(subject);
  check_dropped(subject);
  check_lengths(subject);
  check_bad_receive_buffers(subject);
  check_many(subject);
  check_device(subject);
}

}  // namespace payload
