// SPDX-License-Identifier: Apache-2.0
// The network device (virtio 1.2 §5.1). The host's side of the wire has the address 10.0.2.2, and
// answers ARP and ICMP as any host does; the guest is 10.0.2.15.
#include <linux/if_ether.h>
#include <linux/virtio_ids.h>

#include <cstring>

#include "tests/payloads/lib/arguments.h"
#include "tests/payloads/lib/device_checks.h"
#include "tests/payloads/lib/payload.h"
#include "tests/payloads/lib/report.h"
#include "tests/payloads/lib/time.h"

// The header has a member that C++ cannot spell.
#ifdef __clang__
#pragma clang diagnostic ignored "-Wkeyword-macro"
#endif
#define class class_
#include <linux/virtio_net.h>
#undef class

namespace payload {
namespace {

constexpr unsigned kReceive = 0;
constexpr unsigned kTransmit = 1;
// What holds any frame, in memory that belongs to nobody.
constexpr uint64_t kSpare = 0x100'0000;
constexpr uint32_t kLargestFrame = 65562;
constexpr unsigned kReceiveBuffers = 4;
constexpr uint64_t kReceiveStride = 0x2'0000;

constexpr uint8_t kHostAddress[4] = {10, 0, 2, 2};
constexpr uint8_t kGuestAddress[4] = {10, 0, 2, 15};

struct [[gnu::packed]] EthernetHeader {
  uint8_t to[6];
  uint8_t from[6];
  uint8_t type[2];
};

struct [[gnu::packed]] ArpFrame {
  virtio_net_hdr_v1 header;
  EthernetHeader ethernet;
  uint8_t fixed[6];
  uint8_t operation[2];
  uint8_t sender_mac[6];
  uint8_t sender[4];
  uint8_t target_mac[6];
  uint8_t target[4];
};

struct [[gnu::packed]] PingFrame {
  virtio_net_hdr_v1 header;
  EthernetHeader ethernet;
  uint8_t ip[20];
  uint8_t type;
  uint8_t code;
  uint8_t checksum[2];
  uint8_t rest[36];
};

Device nic;
uint8_t guest_mac[6];
uint8_t host_mac[6];
ArpFrame arp;
PingFrame ping;

uint8_t* receive_buffer(unsigned index) {
  return reinterpret_cast<uint8_t*>(kSpare + index * kReceiveStride);
}

void post_receive_buffers() {
  Virtqueue& queue = queues[kReceive];
  for (unsigned i = 0; i < kReceiveBuffers; ++i)
    queue.publish(queue.add({writable(receive_buffer(i), kLargestFrame)}));
  queue.kick();
}

void make_arp_request() {
  static const uint8_t fixed[6] = {0, 1, 8, 0, 6, 4};
  arp = {};
  memset(arp.ethernet.to, 0xff, 6);
  memcpy(arp.ethernet.from, guest_mac, 6);
  arp.ethernet.type[0] = ETH_P_ARP >> 8;
  arp.ethernet.type[1] = ETH_P_ARP & 0xff;
  memcpy(arp.fixed, fixed, sizeof fixed);
  arp.operation[1] = 1;
  memcpy(arp.sender_mac, guest_mac, 6);
  memcpy(arp.sender, kGuestAddress, 4);
  memcpy(arp.target, kHostAddress, 4);
}

bool is_arp_reply(const ArpFrame& frame, uint32_t size) {
  return size >= sizeof frame && frame.ethernet.type[1] == (ETH_P_ARP & 0xff) &&
         frame.operation[1] == 2 && memcmp(frame.sender, kHostAddress, 4) == 0 &&
         memcmp(frame.ethernet.to, guest_mac, 6) == 0;
}

// The next frame that `wanted(bytes, size)` accepts; others (the host's own chatter) go by.
template <typename Wanted>
const uint8_t* receive(Wanted wanted) {
  Virtqueue& queue = queues[kReceive];
  for (unsigned i = 0; i < 64; ++i) {
    UsedElement used;
    if (!queue.wait_used(used) || used.id >= kReceiveBuffers) return nullptr;
    const uint8_t* bytes = receive_buffer(used.id);
    if (wanted(bytes, used.written)) return bytes;
    queue.publish(static_cast<uint16_t>(used.id));
    queue.kick();
  }
  return nullptr;
}

bool needs_reset() { return (nic.status() & VIRTIO_CONFIG_S_NEEDS_RESET) != 0; }

// Asks for the host's hardware address and waits for the answer.
const ArpFrame* resolve() {
  make_arp_request();
  if (!queues[kTransmit].request({readable(&arp, sizeof arp)})) return nullptr;
  return reinterpret_cast<const ArpFrame*>(receive([](const uint8_t* bytes, uint32_t size) {
    return is_arp_reply(*reinterpret_cast<const ArpFrame*>(bytes), size);
  }));
}

bool works() {
  // Called twice on one set of rings by some checks: buffers are there already then.
  if (queues[kReceive].available_index() == 0) post_receive_buffers();
  return resolve() != nullptr;
}

uint16_t checksum(const uint8_t* bytes, size_t size) {
  uint32_t sum = 0;
  for (size_t i = 0; i < size; i += 2) sum += static_cast<uint32_t>(bytes[i] << 8 | bytes[i + 1]);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

void put16(uint8_t* to, unsigned value) {
  to[0] = static_cast<uint8_t>(value >> 8);
  to[1] = static_cast<uint8_t>(value);
}

void make_ping() {
  constexpr size_t kIcmpSize = sizeof ping - offsetof(PingFrame, type);
  ping = {};
  memcpy(ping.ethernet.to, host_mac, 6);
  memcpy(ping.ethernet.from, guest_mac, 6);
  put16(ping.ethernet.type, ETH_P_IP);
  ping.ip[0] = 0x45;
  put16(ping.ip + 2, sizeof ping.ip + kIcmpSize);
  ping.ip[8] = 64;
  ping.ip[9] = 1;
  memcpy(ping.ip + 12, kGuestAddress, 4);
  memcpy(ping.ip + 16, kHostAddress, 4);
  put16(ping.ip + 10, checksum(ping.ip, sizeof ping.ip));
  ping.type = 8;
  for (size_t i = 0; i < sizeof ping.rest; ++i) ping.rest[i] = static_cast<uint8_t>(i);
  put16(ping.checksum, checksum(&ping.type, kIcmpSize));
}

bool is_echo_reply(const uint8_t* bytes, uint32_t size) {
  const auto& frame = *reinterpret_cast<const PingFrame*>(bytes);
  return size >= sizeof frame && frame.ethernet.type[0] == 8 && frame.ip[9] == 1 &&
         frame.type == 0 && memcmp(frame.rest, ping.rest, sizeof frame.rest) == 0;
}

void check_configuration(const Subject& subject) {
  const uint64_t offered = nic.offered_features();
  check((offered & feature(VIRTIO_NET_F_MAC)) != 0, "offers-a-mac");
  if (!check(start(subject), "starts")) return;
  for (unsigned i = 0; i < 6; ++i) guest_mac[i] = nic.config8(i);
  check(guest_mac[0] == 0x02 && guest_mac[5] == 0x15, "mac-is-the-configured-one");
  // §5.1.4: with VERSION_1 the driver cannot change it.
  mmio_write8(nic.config_address() + 5, 0x99);
  mmio_write32(nic.config_address(), 0xffffffff);
  check_equal(nic.config8(5), guest_mac[5], "mac-is-read-only");
  if ((offered & feature(VIRTIO_NET_F_STATUS)) != 0)
    check_equal(nic.config16(offsetof(virtio_net_config, status)) & VIRTIO_NET_S_LINK_UP,
                VIRTIO_NET_S_LINK_UP, "link-is-up");
  if ((offered & feature(VIRTIO_NET_F_MTU)) != 0)
    check_equal(nic.config16(offsetof(virtio_net_config, mtu)), argument("mtu", 1500), "mtu");
}

void check_traffic(const Subject& subject) {
  if (!check(start(subject), "starts-for-traffic")) return;
  post_receive_buffers();
  const ArpFrame* answer = resolve();
  if (!check(answer != nullptr, "arp-is-answered")) return;
  memcpy(host_mac, answer->sender_mac, 6);
  check_equal(answer->header.num_buffers, 1, "frame-is-in-one-buffer");
  make_ping();
  check(queues[kTransmit].request({readable(&ping, sizeof ping)}) &&
            receive(is_echo_reply) != nullptr,
        "ping-is-answered");
  // Header and frame in odd pieces (§2.7.4).
  check(start(subject), "starts-again");
  post_receive_buffers();
  auto* bytes = reinterpret_cast<uint8_t*>(&ping);
  check(queues[kTransmit].request({readable(bytes, 5), readable(bytes + 5, 7 + 3),
                                   readable(bytes + 15, sizeof ping - 15)}) &&
            receive(is_echo_reply) != nullptr,
        "ping-in-odd-pieces-is-answered");
}

// The checksum is the device's to fill in (§5.1.6.2): the field holds what the sum starts from.
void check_checksum_offload(const Subject& subject) {
  if ((nic.offered_features() & feature(VIRTIO_NET_F_CSUM)) == 0 || has_argument("no-icmp-offload"))
    return;
  if (!check(start(subject), "starts-with-offload")) return;
  post_receive_buffers();
  make_ping();
  put16(ping.checksum, 0);
  ping.header.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
  ping.header.csum_start = offsetof(PingFrame, type) - sizeof ping.header;
  ping.header.csum_offset = 2;
  check(queues[kTransmit].request({readable(&ping, sizeof ping)}) &&
            receive(is_echo_reply) != nullptr,
        "checksum-is-filled-in");
}

// Frames in small buffers: in several of them with VIRTIO_NET_F_MRG_RXBUF, else dropped, never
// written past the end.
void check_small_buffers(const Subject& subject) {
  static uint8_t small[4][40];
  const uint64_t offered = nic.offered_features();
  if ((offered & feature(VIRTIO_NET_F_MRG_RXBUF)) == 0 || !check(start(subject), "starts-small"))
    return;
  memset(small, 0x77, sizeof small);
  Virtqueue& queue = queues[kReceive];
  for (unsigned i = 0; i < 4; ++i) queue.publish(queue.add({writable(small[i], 32)}));
  queue.kick();
  make_arp_request();
  UsedElement first;
  UsedElement second;
  check(queues[kTransmit].request({readable(&arp, sizeof arp)}) && queue.wait_used(first) &&
            queue.wait_used(second) && first.written == 32 &&
            reinterpret_cast<virtio_net_hdr_v1*>(small[0])->num_buffers >= 2,
        "frame-is-spread-over-buffers");
  bool kept = true;
  for (const auto& buffer : small)
    for (unsigned i = 32; i < 40; ++i) kept = kept && buffer[i] == 0x77;
  check(kept, "nothing-is-written-past-a-buffer");
}

void check_bad_frame(const Subject& subject, const char* name,
                     std::initializer_list<Buffer> parts) {
  start(subject);
  post_receive_buffers();
  Virtqueue& queue = queues[kTransmit];
  queue.publish(queue.add(parts));
  queue.kick();
  const bool answered = wait_until(
      [&] { return queue.has_used() || (nic.status() & VIRTIO_CONFIG_S_NEEDS_RESET) != 0; });
  check(answered, name);
  check_works(subject, "works-afterwards");
}

void check_bad_frames(const Subject& subject) {
  set_prefix("bad-frame");
  make_arp_request();
  check_bad_frame(subject, "half-a-header", {readable(&arp, 5)});
  check_bad_frame(subject, "header-alone", {readable(&arp, sizeof arp.header)});
  check_bad_frame(subject, "half-an-ethernet-header", {readable(&arp, sizeof arp.header + 5)});
  check_bad_frame(subject, "empty", {readable(&arp, 0)});
  check_bad_frame(subject, "writable", {writable(&arp, sizeof arp)});
  check_bad_frame(subject, "a-mebibyte", {readable(&arp, sizeof arp), {kSpare, 1 << 20, 0}});
  arp.header.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
  check_bad_frame(subject, "segments-of-size-0", {readable(&arp, sizeof arp)});
  arp.header.gso_type = 0x7f;
  arp.header.gso_size = 0xffff;
  check_bad_frame(subject, "unknown-segmentation", {readable(&arp, sizeof arp)});
  make_arp_request();
  arp.header.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
  arp.header.csum_start = 0xfff0;
  arp.header.csum_offset = 0xfff0;
  check_bad_frame(subject, "checksum-outside-the-frame", {readable(&arp, sizeof arp)});
  memset(&arp.header, 0xff, sizeof arp.header);
  check_bad_frame(subject, "header-of-ones", {readable(&arp, sizeof arp)});
  set_prefix("");
}

// Receive buffers that cannot be used; a frame comes for each. The answer is a reset, or the frame
// is dropped; the device works after a reset.
void check_bad_receive_buffer(const Subject& subject, const char* name, const Buffer& buffer,
                              bool outside_memory) {
  start(subject);
  Virtqueue& queue = queues[kReceive];
  queue.publish(queue.add({buffer}));
  queue.kick();
  make_arp_request();
  Virtqueue& transmit = queues[kTransmit];
  transmit.publish(transmit.add({readable(&arp, sizeof arp)}));
  transmit.kick();
  if (outside_memory) {
    check(nic.wait_for_needs_reset(), name);
  } else {
    check(wait_until([&] { return transmit.has_used() || needs_reset(); }), name);
    pass_time();
  }
  check_works(subject, "works-afterwards");
}

void check_bad_receive_buffers(const Subject& subject) {
  set_prefix("bad-receive-buffer");
  static uint8_t bytes[2048];
  const uint64_t past = low_memory().start + low_memory().size;
  check_bad_receive_buffer(subject, "readable", readable(bytes, sizeof bytes), false);
  check_bad_receive_buffer(subject, "empty", writable(bytes, 0), false);
  check_bad_receive_buffer(subject, "smaller-than-the-header", writable(bytes, 8), false);
  check_bad_receive_buffer(subject, "past-memory", {past, 2048, kWrite}, true);
  check_bad_receive_buffer(subject, "wraps", {UINT64_MAX - 2047, 4096, kWrite}, true);
  check_bad_receive_buffer(subject, "crosses-end-of-memory", {past - 16, 4096, kWrite}, true);
  set_prefix("");
}

}  // namespace

void run() {
  Subject subject{.queue_count = 2, .queue = kTransmit, .works = works};
  if (!Device::find(VIRTIO_ID_NET, nic)) give_up("net-is-there");
  subject.device = nic;
  check_configuration(subject);
  check_traffic(subject);
  check_checksum_offload(subject);
  check_small_buffers(subject);
  check_bad_frames(subject);
  check_bad_receive_buffers(subject);
  check_device(subject);
}

}  // namespace payload
