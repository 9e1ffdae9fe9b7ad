// SPDX-License-Identifier: Apache-2.0
// On real taps, in a network namespace of this process. Last in its program's list: there is no way
// back from it.
#include "vmm/virtio/net/tap.h"

#include <linux/if_tun.h>

#include "base/file.h"
#include "base/format.h"
#include "tests/support/net_fixture.h"
#include "tests/support/network_namespace.h"

namespace kiln::vmm {
namespace {

constexpr char kName[] = "kiln-test0";
constexpr uint16_t kIpv6 = 0x86dd;

TEST(TapName, ThatIsNoneIsRefused) {
  for (const char* name : {"", "a/b", "tap%d", "a b", "sixteen-letters-"})
    EXPECT_EQ(open_tap(name).error().kind, ErrorKind::kInvalidArgument) << name;
}

class Tap : public NetFixture {
 protected:
  void SetUp() override {
    if (const auto entered = enter_network_namespace(); !entered)
      GTEST_SKIP() << entered.error().message;
    if (const auto device = open_file("/dev/net/tun", O_RDWR); !device)
      GTEST_SKIP() << device.error().message;
    // Nothing but what the test sends: the host would solicit its neighbours over IPv6.
    static_cast<void>(write_file("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"));
  }
  // A tap that is up, with a device on it.
  void create_on_tap() {
    auto tap = open_tap(kName);
    ASSERT_TRUE(tap) << tap.error().message;
    const auto up = set_link_up(kName, true);
    ASSERT_TRUE(up) << up.error().message;
    auto socket = packet_socket(kName);
    ASSERT_TRUE(socket) << socket.error().message;
    peer_ = std::move(*socket);
    NetOptions options;
    options.tap = std::move(*tap);
    create(std::move(options));
  }
  // An Ethernet frame; the protocol is one that the host does not look into.
  static std::string ethernet(size_t size, unsigned seed = 1, uint16_t protocol = 0x88b5) {
    std::string bytes = frame_of(size, seed);
    bytes.replace(0, 6, std::string("\x02\x00\x00\x00\x00\x01", 6));
    bytes.replace(6, 6, std::string("\x02\x00\x00\x00\x00\x02", 6));
    bytes[12] = static_cast<char>(protocol >> 8);
    bytes[13] = static_cast<char>(protocol);
    return bytes;
  }
  // A TCP segment of `payload` bytes over IPv6, its checksum left to be done.
  static std::string tcp_over_ipv6(size_t payload) {
    std::string bytes = ethernet(54 + 20 + payload, 1, kIpv6);
    std::string headers(60, '\0');
    headers[0] = 0x60;
    headers[4] = static_cast<char>((20 + payload) >> 8);
    headers[5] = static_cast<char>(20 + payload);
    headers[6] = 6;
    headers[7] = 64;
    headers[8] = headers[24] = '\xfd';
    headers[23] = 1;
    headers[39] = 2;
    headers[52] = 0x50;  // 20 bytes of header
    headers[53] = 0x10;  // ACK
    bytes.replace(14, headers.size(), headers);
    return bytes;
  }
  static constexpr size_t kShortHeader = 10;  // a packet socket's

  void arrive_by_host(const std::string& bytes, const virtio_net_hdr_v1& header = {}) const {
    const std::string all = text_of(header).substr(0, kShortHeader) + bytes;
    ASSERT_EQ(send(peer_.get(), all.data(), all.size(), 0), static_cast<ssize_t>(all.size()))
        << errno_text(errno);
  }
  // What the host got, but for what it has sent itself.
  std::optional<std::string> next_at_host() const {
    std::string bytes(70'000, '\0');
    while (true) {
      sockaddr_ll from{};
      socklen_t length = sizeof from;
      const ssize_t size = recvfrom(peer_.get(), bytes.data(), bytes.size(), 0,
                                    reinterpret_cast<sockaddr*>(&from), &length);
      if (size < 0) return std::nullopt;
      if (from.sll_pkttype == PACKET_OUTGOING) continue;
      return bytes.substr(kShortHeader, static_cast<size_t>(size) - kShortHeader);
    }
  }
};

TEST_F(Tap, IsMadeWithTheFlagsAndTheHeaderOfTheDevice) {
  const auto tap = open_tap(kName);
  ASSERT_TRUE(tap) << tap.error().message;
  ifreq request{};
  ASSERT_EQ(ioctl(tap->get(), TUNGETIFF, &request), 0);
  EXPECT_STREQ(request.ifr_name, kName);
  const int wanted = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  EXPECT_EQ(request.ifr_flags & wanted, wanted);
  int header = 0;
  ASSERT_EQ(ioctl(tap->get(), TUNGETVNETHDRSZ, &header), 0);
  EXPECT_EQ(header, static_cast<int>(kNetHeaderSize));
}

TEST_F(Tap, ThatIsTakenIsRefused) {
  const auto tap = open_tap(kName);
  ASSERT_TRUE(tap);
  const auto second = open_tap(kName);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().sys_errno, EBUSY);
}

TEST_F(Tap, AttachedWithoutHeadersIsRefused) {
  const auto tun = open_file("/dev/net/tun", O_RDWR);
  ASSERT_TRUE(tun);
  ifreq request{};
  std::strcpy(request.ifr_name, kName);
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  ASSERT_EQ(ioctl(tun->get(), TUNSETIFF, &request), 0);
  EXPECT_EQ(prepare_tap(tun->get()).error().kind, ErrorKind::kInvalidArgument);
}

TEST_F(Tap, ForPacketsInsteadOfFramesIsRefused) {
  const auto tun = open_file("/dev/net/tun", O_RDWR);
  ASSERT_TRUE(tun);
  ifreq request{};
  std::strcpy(request.ifr_name, kName);
  request.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR;
  ASSERT_EQ(ioctl(tun->get(), TUNSETIFF, &request), 0);
  EXPECT_EQ(prepare_tap(tun->get()).error().kind, ErrorKind::kInvalidArgument);
}

TEST_F(Tap, TakesEveryCombinationOfOffloads) {
  const auto tap = open_tap(kName);
  ASSERT_TRUE(tap);
  for (unsigned set = 0; set < 32; ++set) {
    uint64_t acked = 0;
    unsigned i = 0;
    for (const unsigned bit :
         {VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
          VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_UFO})
      if ((set >> i++ & 1) != 0) acked |= net_bit(bit);
    EXPECT_TRUE(set_tap_offloads(tap->get(), tap_offloads(acked))) << set;
  }
}

TEST_F(Tap, CarriesFramesBothWays) {
  create_on_tap();
  post(2048, 4);
  activate();
  arrive_by_host(ethernet(1514));
  settle();
  ASSERT_EQ(next_received().value().bytes, ethernet(1514));
  transmit(ethernet(700, 2));
  kick(NetDevice::kTx);
  EXPECT_EQ(next_at_host(), ethernet(700, 2));
}

TEST_F(Tap, CarriesALargeSegmentToADriverThatTakesIt) {
  create_on_tap();
  post(4096, 20);
  activate(kMergeable | net_bit(VIRTIO_NET_F_GUEST_CSUM) | net_bit(VIRTIO_NET_F_GUEST_TSO6));
  const std::string segment = tcp_over_ipv6(60'000);
  const virtio_net_hdr_v1 header = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                    .gso_type = VIRTIO_NET_HDR_GSO_TCPV6,
                                    .hdr_len = 74,
                                    .gso_size = 1428,
                                    .csum = {.start = 54, .offset = 16}};
  arrive_by_host(segment, header);
  settle();
  const auto frame = next_received();
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->bytes.size(), segment.size());
  EXPECT_EQ(frame->header.gso_type, VIRTIO_NET_HDR_GSO_TCPV6);
  EXPECT_EQ(frame->header.gso_size, 1428);
  EXPECT_EQ(frame->header.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
  EXPECT_EQ(frame->header.num_buffers, 15);
}

TEST_F(Tap, CutsALargeSegmentForADriverThatDoesNot) {
  create_on_tap();
  post(2048, 8);
  activate(kMergeable);
  arrive_by_host(tcp_over_ipv6(4 * 1428), {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                           .gso_type = VIRTIO_NET_HDR_GSO_TCPV6,
                                           .hdr_len = 74,
                                           .gso_size = 1428,
                                           .csum = {.start = 54, .offset = 16}});
  settle();
  for (int i = 0; i < 4; ++i) {
    const auto frame = next_received();
    ASSERT_TRUE(frame) << i;
    EXPECT_EQ(frame->bytes.size(), 74U + 1428U);
    EXPECT_EQ(frame->header.gso_type, VIRTIO_NET_HDR_GSO_NONE);
    EXPECT_EQ(frame->header.flags, 0);
  }
  EXPECT_FALSE(next_received());
}

TEST_F(Tap, SendsALargeSegmentOfTheGuest) {
  create_on_tap();
  activate();
  const std::string segment = tcp_over_ipv6(60'000);
  transmit(segment, {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                     .gso_type = VIRTIO_NET_HDR_GSO_TCPV6,
                     .hdr_len = 74,
                     .gso_size = 1428,
                     .csum = {.start = 54, .offset = 16}});
  kick(NetDevice::kTx);
  EXPECT_EQ(next_at_host().value().size(), segment.size());
}

TEST_F(Tap, RefusesAHeaderThatDoesNotFitTheFrame) {
  create_on_tap();
  activate();
  transmit(ethernet(60), {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum = {.start = 60'000}});
  transmit(ethernet(60), {.gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 0});
  transmit(ethernet(60), {.gso_type = 0x7f, .gso_size = 10});
  transmit(ethernet(60, 2));
  kick(NetDevice::kTx);
  EXPECT_EQ(next_at_host(), ethernet(60, 2));
  EXPECT_EQ(device_->metrics().failed_requests, 3U);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(tx_.next_used()) << i;
}

TEST_F(Tap, ThatIsDownLosesFramesUntilItIsUp) {
  create_on_tap();
  post(2048, 4);
  activate();
  ASSERT_TRUE(set_link_up(kName, false));
  transmit(ethernet(100));
  kick(NetDevice::kTx);
  settle();
  EXPECT_EQ(device_->metrics().failed_requests, 1U);
  EXPECT_TRUE(tx_.next_used());
  ASSERT_TRUE(set_link_up(kName, true));
  int down = 0;  // which the packet socket was told of, too
  socklen_t length = sizeof down;
  ASSERT_EQ(getsockopt(peer_.get(), SOL_SOCKET, SO_ERROR, &down, &length), 0);
  transmit(ethernet(100, 2));
  kick(NetDevice::kTx);
  EXPECT_TRUE(tx_.next_used());
  arrive_by_host(ethernet(100, 3));
  settle();
  ASSERT_EQ(next_received().value().bytes, ethernet(100, 3));
}

TEST_F(Tap, ThatIsDeletedTakesTheLinkDownAndLeavesTheLoopQuiet) {
  create_on_tap();
  post(2048, 4);
  activate();
  const auto deleted = delete_link(kName);
  ASSERT_TRUE(deleted) << deleted.error().message;
  settle();
  EXPECT_EQ(link_status(), 0);
  EXPECT_EQ(config_changes_, 1U);
  transmit(ethernet(100));
  kick(NetDevice::kTx);
  EXPECT_TRUE(tx_.next_used());
  EXPECT_TRUE(broken_.empty());
  // A driver that starts again finds a link that is down, not a device that fails.
  device_->reset();
  activate();
  EXPECT_EQ(link_status(), 0);
}

TEST_F(Tap, ThatIsDeletedIsNoticedBySendingToo) {
  create_on_tap();
  activate();
  ASSERT_TRUE(delete_link(kName));
  for (int i = 0; i < 3; ++i) transmit(ethernet(100));
  kick(NetDevice::kTx);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(tx_.next_used()) << i;
  EXPECT_EQ(link_status(), 0);
}

}  // namespace
}  // namespace kiln::vmm
