// SPDX-License-Identifier: Apache-2.0
// From the guest to the tap.
#include "tests/support/net_fixture.h"

namespace kiln::vmm {
namespace {

class VirtioNetTransmit : public NetFixture {};

TEST_F(VirtioNetTransmit, FrameIsSentWithItsHeader) {
  create_on_socket();
  activate();
  const virtio_net_hdr_v1 header = {.gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 1448};
  transmit(frame_of(1514), header);
  kick(NetDevice::kTx);
  EXPECT_EQ(next_sent(), text_of(header) + frame_of(1514));
  const auto used = tx_.next_used();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->len, 0U);
  EXPECT_EQ(interrupts_[NetDevice::kTx], 1U);
  EXPECT_EQ(device_->metrics().bytes_from_guest, 1514U);
}

TEST_F(VirtioNetTransmit, FrameInPiecesIsSentAsOne) {
  create_on_socket();
  activate();
  const std::string all = text_of({}) + frame_of(5000);
  const uint64_t at = guest_.allocate(all.size());
  guest_.put_text(at, all);
  tx_.add_chain({{at, 5, false}, {at + 5, 10, false}, {at + 15, 4997, false}});
  kick(NetDevice::kTx);
  EXPECT_EQ(next_sent(), all);
}

TEST_F(VirtioNetTransmit, LargestFrameIsSent) {
  create_on_socket();
  activate();
  transmit(frame_of(kLargestFrame));
  kick(NetDevice::kTx);
  EXPECT_EQ(next_sent().value().size(), kNetHeaderSize + kLargestFrame);
}

TEST_F(VirtioNetTransmit, RuntIsDroppedAndGivenBack) {
  create_on_socket();
  activate();
  transmit(frame_of(kSmallestFrame - 1));
  transmit("");
  kick(NetDevice::kTx);
  EXPECT_FALSE(next_sent());
  EXPECT_TRUE(tx_.next_used());
  EXPECT_TRUE(tx_.next_used());
  EXPECT_EQ(device_->metrics().failed_requests, 2U);
}

TEST_F(VirtioNetTransmit, OversizedFrameIsDroppedAndGivenBack) {
  create_on_socket();
  activate();
  transmit(frame_of(kLargestFrame + 1));
  // As much as a chain can have, of the same few pages.
  std::vector<FakeBuffer> buffers(100, FakeBuffer{0, FakeGuest::kSize, false});
  tx_.add_chain(buffers);
  kick(NetDevice::kTx);
  EXPECT_FALSE(next_sent());
  EXPECT_TRUE(tx_.next_used());
  EXPECT_TRUE(tx_.next_used());
  EXPECT_EQ(device_->metrics().failed_requests, 2U);
}

TEST_F(VirtioNetTransmit, WritableBufferIsTheDriversFault) {
  create_on_socket();
  activate();
  const uint64_t at = guest_.allocate(4096);
  tx_.add_chain({{at, 100, false}, {at + 100, 1, true}});
  EXPECT_FALSE(device_->process_queue(NetDevice::kTx));
  EXPECT_FALSE(next_sent());
  // The other direction goes on.
  post(2048);
  arrive(frame_of(100));
  settle();
  EXPECT_TRUE(next_received());
}

TEST_F(VirtioNetTransmit, FramesWaitForATapThatIsFull) {
  create_on_socket();
  activate();
  constexpr unsigned kFrames = 60;
  for (unsigned i = 0; i < kFrames; ++i) transmit(frame_of(20'000, i));
  kick(NetDevice::kTx);
  settle();
  EXPECT_LT(device_->metrics().requests, kFrames);
  unsigned sent = 0;
  while (sent < kFrames) {
    const auto frame = next_sent();
    ASSERT_TRUE(frame) << sent;
    ASSERT_EQ(frame->substr(kNetHeaderSize), frame_of(20'000, sent));
    ++sent;
    settle();
  }
  EXPECT_EQ(device_->metrics().failed_requests, 0U);
}

TEST_F(VirtioNetTransmit, OneTurnDoesNotTakeAll) {
  create_on_socket();
  activate();
  for (unsigned i = 0; i < 100; ++i) transmit(frame_of(60, i));
  kick(NetDevice::kTx);
  EXPECT_EQ(device_->metrics().requests, kFramesPerTurn);
  settle();
  EXPECT_EQ(device_->metrics().requests, 100U);
  for (unsigned i = 0; i < 100; ++i)
    ASSERT_EQ(next_sent().value().substr(kNetHeaderSize), frame_of(60, i));
}

TEST_F(VirtioNetTransmit, OneTurnDoesNotTakeMoreBytesThanItsShare) {
  create_on_socket();
  activate();
  for (unsigned i = 0; i < 40; ++i) transmit(frame_of(60'000));
  unsigned sent = 0;
  const auto drain = [&] {
    while (next_sent()) ++sent;
  };
  // A socket takes three or so of them at once.
  for (int i = 0; i < 100 && sent < 40; ++i) {
    kick(NetDevice::kTx);
    settle();
    drain();
  }
  EXPECT_EQ(sent, 40U);
}

TEST_F(VirtioNetTransmit, LimiterHoldsFramesBack) {
  NetOptions options;
  options.tx_limiter.bandwidth = {.size = 1000, .refill_time_ms = 3'600'000};
  create_on_socket(std::move(options));
  activate();
  for (int i = 0; i < 5; ++i) transmit(frame_of(500));
  kick(NetDevice::kTx);
  settle();
  kick(NetDevice::kTx);
  EXPECT_EQ(device_->metrics().requests, 2U);
  EXPECT_EQ(device_->metrics().rate_limiter_hits, 1U);
  EXPECT_EQ(device_->metrics().failed_requests, 0U);
}

TEST_F(VirtioNetTransmit, FramesHeldBackGoWhenTheLimiterAllows) {
  NetOptions options;
  options.tx_limiter.ops = {.size = 2, .refill_time_ms = 40};
  create_on_socket(std::move(options));
  activate();
  for (unsigned i = 0; i < 6; ++i) transmit(frame_of(100, i));
  kick(NetDevice::kTx);
  EXPECT_LT(device_->metrics().requests, 6U);
  run_until([this] { return device_->metrics().requests == 6; });
  for (unsigned i = 0; i < 6; ++i)
    ASSERT_EQ(next_sent().value().substr(kNetHeaderSize), frame_of(100, i));
}

TEST_F(VirtioNetTransmit, FramesHeldBackAreSentAfterSuspend) {
  NetOptions options;
  options.tx_limiter.ops = {.size = 1, .refill_time_ms = 40};
  create_on_socket(std::move(options));
  activate();
  for (unsigned i = 0; i < 3; ++i) transmit(frame_of(100, i));
  kick(NetDevice::kTx);
  device_->suspend();
  activate();
  run_until([this] { return device_->metrics().requests == 3; });
  for (unsigned i = 0; i < 3; ++i)
    ASSERT_EQ(next_sent().value().substr(kNetHeaderSize), frame_of(100, i));
}

TEST_F(VirtioNetTransmit, DriverIsNotAskedToKickWhileFramesAreSent) {
  create_on_socket();
  activate();
  const uint64_t flags = tx_.config().used_ring;
  EXPECT_EQ(guest_.get<uint16_t>(flags), 0);
  for (unsigned i = 0; i <= kFramesPerTurn; ++i) transmit(frame_of(60, i));
  kick(NetDevice::kTx);
  EXPECT_EQ(guest_.get<uint16_t>(flags), VRING_USED_F_NO_NOTIFY);
  settle();
  EXPECT_EQ(guest_.get<uint16_t>(flags), 0);
}

}  // namespace
}  // namespace kiln::vmm
