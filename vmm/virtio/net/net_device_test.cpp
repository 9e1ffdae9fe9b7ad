// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/net/net_device.h"

#include <linux/if_tun.h>

#include <cstring>

#include "tests/support/net_fixture.h"

namespace kiln::vmm {
namespace {

class VirtioNet : public NetFixture {};

TEST_F(VirtioNet, ConfigurationHasAddressLinkAndMtu) {
  NetOptions options;
  options.mtu = 9000;
  create_on_socket(std::move(options));
  virtio_net_config config{};
  device_->read_config(0, std::as_writable_bytes(std::span(&config, 1)));
  EXPECT_EQ(std::memcmp(config.mac, kMac.data(), kMac.size()), 0);
  EXPECT_EQ(config.status, VIRTIO_NET_S_LINK_UP);
  EXPECT_EQ(config.mtu, 9000);
}

TEST_F(VirtioNet, ConfigurationPastItsEndIsZero) {
  create_on_socket();
  std::array<uint8_t, 8> bytes;
  bytes.fill(0xff);
  device_->read_config(10, std::as_writable_bytes(std::span(bytes)));
  EXPECT_EQ(bytes, (std::array<uint8_t, 8>{1500 & 0xff, 1500 >> 8, 0, 0, 0, 0, 0, 0}));
  bytes.fill(0xff);
  device_->read_config(UINT32_MAX - 2, std::as_writable_bytes(std::span(bytes)));
  EXPECT_EQ(bytes, (std::array<uint8_t, 8>{}));
}

TEST_F(VirtioNet, GroupAddressIsRefused) {
  NetOptions options;
  options.mac = {1, 0, 0, 0, 0, 0};
  options.control.prepare = [](int) { return Result<void>(); };
  EXPECT_FALSE(NetDevice::create(*loop_, std::move(options)));
}

TEST_F(VirtioNet, MtuThatIpv4CannotHaveIsRefused) {
  NetOptions options;
  options.mac = kMac;
  options.mtu = 67;
  options.control.prepare = [](int) { return Result<void>(); };
  const auto created = NetDevice::create(*loop_, std::move(options));
  ASSERT_FALSE(created);
  EXPECT_EQ(created.error().kind, ErrorKind::kInvalidArgument);
}

TEST_F(VirtioNet, DescriptorThatIsNoTapIsRefused) {
  NetOptions options;
  options.mac = kMac;
  options.tap.reset(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  EXPECT_FALSE(NetDevice::create(*loop_, std::move(options)));
}

TEST_F(VirtioNet, AckedOffloadsAreSetAndUnsetAtReset) {
  create_on_socket();
  activate(net_bit(VIRTIO_NET_F_GUEST_CSUM) | net_bit(VIRTIO_NET_F_GUEST_TSO4) |
           net_bit(VIRTIO_NET_F_GUEST_TSO6) | net_bit(VIRTIO_NET_F_GUEST_ECN) |
           net_bit(VIRTIO_NET_F_GUEST_UFO));
  device_->reset();
  const unsigned all = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_UFO;
  EXPECT_EQ(offloads_, (std::vector<unsigned>{all, 0}));
}

// virtio 1.2 §5.1.3.1
TEST(TapOffloads, WithoutWhatTheyRequireDoNotCount) {
  EXPECT_EQ(tap_offloads(net_bit(VIRTIO_NET_F_GUEST_TSO4) | net_bit(VIRTIO_NET_F_GUEST_UFO)), 0U);
  EXPECT_EQ(tap_offloads(net_bit(VIRTIO_NET_F_GUEST_CSUM) | net_bit(VIRTIO_NET_F_GUEST_ECN)),
            unsigned{TUN_F_CSUM});
  EXPECT_EQ(tap_offloads(net_bit(VIRTIO_NET_F_CSUM) | net_bit(VIRTIO_NET_F_HOST_TSO4)), 0U);
}

TEST_F(VirtioNet, TapThatRefusesOffloadsFailsActivation) {
  create_on_socket();
  NetOptions options;
  options.mac = kMac;
  options.tap.reset(dup(peer_.get()));
  options.control.prepare = [](int) { return Result<void>(); };
  options.control.set_offloads = [](int, unsigned) -> Result<void> {
    return sys_error("set a tap's offloads", EINVAL);
  };
  auto device = NetDevice::create(*loop_, std::move(options));
  ASSERT_TRUE(device);
  EXPECT_FALSE((*device)->activate({}));
}

TEST_F(VirtioNet, BuffersAndFramesFromBeforeActivationAreFound) {
  create_on_socket();
  post(2048);
  arrive(frame_of(100, 1));
  transmit(frame_of(100, 2));
  settle();
  activate();
  EXPECT_TRUE(next_received());
  EXPECT_TRUE(next_sent());
}

TEST_F(VirtioNet, QueueThatTheDriverDidNotSetUpIsLeftAlone) {
  create_on_socket();
  tx_queue_.reset();
  post(2048);
  activate();
  kick(NetDevice::kTx);
  arrive(frame_of(100));
  settle();
  EXPECT_TRUE(next_received());
}

TEST_F(VirtioNet, NothingHappensBeforeActivationAndAfterReset) {
  create_on_socket();
  post(2048);
  transmit(frame_of(100));
  kick(NetDevice::kRx);
  kick(NetDevice::kTx);
  activate();
  ASSERT_TRUE(next_sent());
  transmit(frame_of(100));
  device_->reset();
  arrive(frame_of(100));
  kick(NetDevice::kRx);
  kick(NetDevice::kTx);
  settle();
  EXPECT_FALSE(next_sent());
  EXPECT_FALSE(next_received());
}

TEST_F(VirtioNet, QueueThatDoesNotExistIsIgnored) {
  create_on_socket();
  activate();
  EXPECT_TRUE(device_->process_queue(2));
  EXPECT_TRUE(device_->process_queue(UINT32_MAX));
}

TEST_F(VirtioNet, TapThatGoesAwayTakesTheLinkDown) {
  create_on_socket();
  post(2048);
  activate();
  peer_.reset();
  settle();
  EXPECT_EQ(link_status(), 0);
  EXPECT_EQ(config_changes_, 1U);
  // Frames of the guest go nowhere, but its queue moves on.
  transmit(frame_of(100));
  kick(NetDevice::kTx);
  EXPECT_TRUE(tx_.next_used());
  EXPECT_TRUE(broken_.empty());
}

TEST_F(VirtioNet, DeviceMayGoWhileATurnIsDue) {
  create_on_socket();
  activate();
  for (unsigned i = 0; i < 100; ++i) transmit(frame_of(60));
  kick(NetDevice::kTx);
  device_.reset();
  settle();
  unsigned sent = 0;
  while (next_sent().value_or("") != "") ++sent;
  EXPECT_EQ(sent, kFramesPerTurn);
}

}  // namespace
}  // namespace kiln::vmm
