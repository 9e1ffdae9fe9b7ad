// SPDX-License-Identifier: Apache-2.0
// From the tap to the guest.
#include <linux/if_tun.h>

#include <cstddef>

#include "tests/support/net_fixture.h"

namespace kiln::vmm {
namespace {

class VirtioNetReceive : public NetFixture {};

constexpr uint64_t kChecksums = net_bit(VIRTIO_NET_F_GUEST_CSUM);

TEST_F(VirtioNetReceive, FrameComesInOneBufferThatHoldsIt) {
  create_on_socket();
  post(2048, 2);
  activate();
  arrive(frame_of(1514));
  settle();
  const auto frame = next_received();
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->header.num_buffers, 1);
  EXPECT_EQ(frame->bytes, frame_of(1514));
  EXPECT_FALSE(next_received());
  EXPECT_EQ(interrupts_[NetDevice::kRx], 1U);
  EXPECT_EQ(device_->metrics().bytes_to_guest, 1514U);
  EXPECT_EQ(device_->metrics().requests, 1U);
}

TEST_F(VirtioNetReceive, LargestFrameIsMergedOverBuffers) {
  create_on_socket();
  post(4096, 20);
  activate();
  arrive(frame_of(kLargestFrame));
  arrive(frame_of(60, 2));
  settle();
  const auto frame = next_received();
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->header.num_buffers, 17);
  EXPECT_EQ(frame->bytes, frame_of(kLargestFrame));
  const auto next = next_received();
  ASSERT_TRUE(next);
  EXPECT_EQ(next->header.num_buffers, 1);
  EXPECT_EQ(next->bytes, frame_of(60, 2));
}

// Here the kernel is shown less than what is staged.
TEST_F(VirtioNetReceive, LargeFrameAmongSmallOnesIsWhole) {
  create_on_socket();
  activate();
  for (unsigned i = 0; i < 40; ++i) {
    post(1000);
    arrive(frame_of(100, i));
    kick();
    ASSERT_EQ(next_received().value().bytes, frame_of(100, i)) << i;
  }
  post(1000, 32);
  arrive(frame_of(30'000));
  arrive(frame_of(100, 2));
  kick();
  ASSERT_EQ(next_received().value().bytes, frame_of(30'000));
  ASSERT_EQ(next_received().value().bytes, frame_of(100, 2));
}

TEST_F(VirtioNetReceive, LargeFrameAmongSmallOnesIsWholeWhenItHasToWait) {
  create_on_socket();
  activate();
  for (unsigned i = 0; i < 40; ++i) {
    post(1000);
    arrive(frame_of(100, i));
    kick();
    ASSERT_EQ(next_received().value().bytes, frame_of(100, i)) << i;
  }
  post(1000, 8);
  arrive(frame_of(12'000));
  kick();
  EXPECT_FALSE(next_received());
  post(1000, 8);
  kick();
  ASSERT_EQ(next_received().value().bytes, frame_of(12'000));
}

TEST_F(VirtioNetReceive, FrameThatFillsItsBufferTakesNoSecondOne) {
  create_on_socket();
  post(512, 2);
  activate();
  arrive(frame_of(500));
  settle();
  const auto frame = next_received();
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->header.num_buffers, 1);
  EXPECT_EQ(frame->bytes, frame_of(500));
}

TEST_F(VirtioNetReceive, NeighbouringAndScatteredBuffersAreFilledInOrder) {
  create_on_socket();
  const uint64_t at = guest_.allocate(4096);
  for (const uint64_t offset : {0, 512, 2048, 1024, 1536, 3000})
    posted_[rx_.add_chain({{at + offset, 512, true}})] = {at + offset, 512};
  activate();
  arrive(frame_of(2800));
  settle();
  const auto frame = next_received();
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->header.num_buffers, 6);
  EXPECT_EQ(frame->bytes, frame_of(2800));
}

TEST_F(VirtioNetReceive, HeaderMaySpanDescriptors) {
  create_on_socket();
  const uint64_t at = guest_.allocate(4096);
  rx_.add_chain({{at, 5, true}, {at + 5, 3, true}, {at + 8, 2000, true}});
  activate();
  arrive(frame_of(300));
  settle();
  const auto used = rx_.next_used();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->len, 312U);
  EXPECT_EQ(guest_.get<uint16_t>(at + offsetof(virtio_net_hdr_v1, num_buffers)), 1);
  EXPECT_EQ(guest_.get_text(at + 12, 300), frame_of(300));
}

TEST_F(VirtioNetReceive, FramesStayInTheTapWithoutBuffers) {
  create_on_socket();
  activate();
  arrive(frame_of(100, 1));
  arrive(frame_of(100, 2));
  settle();
  EXPECT_EQ(device_->metrics().failed_requests, 0U);
  post(2048, 2);
  kick();
  ASSERT_EQ(next_received().value().bytes, frame_of(100, 1));
  ASSERT_EQ(next_received().value().bytes, frame_of(100, 2));
}

TEST_F(VirtioNetReceive, FrameThatIsTooLargeForNowComesWholeLater) {
  create_on_socket();
  post(1000, 2);
  activate();
  arrive(frame_of(3000));
  arrive(frame_of(200, 2));
  settle();
  EXPECT_FALSE(next_received());
  post(1000, 1);
  kick();
  EXPECT_FALSE(next_received());
  post(1000, 2);
  kick();
  const auto frame = next_received();
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->header.num_buffers, 4);
  EXPECT_EQ(frame->bytes, frame_of(3000));
  ASSERT_EQ(next_received().value().bytes, frame_of(200, 2));
  EXPECT_EQ(device_->metrics().failed_requests, 0U);
}

TEST_F(VirtioNetReceive, FrameThatTheWholeRingCannotHoldIsDropped) {
  create_on_socket();
  post(100, 32);
  activate();
  arrive(frame_of(4000));
  arrive(frame_of(50, 2));
  settle();
  ASSERT_EQ(next_received().value().bytes, frame_of(50, 2));
  EXPECT_EQ(device_->metrics().failed_requests, 1U);
}

TEST_F(VirtioNetReceive, DriverThatNeverHasEnoughBuffersLosesTheFrameOnly) {
  create_on_socket();
  post(1000, 1);
  activate();
  arrive(frame_of(3000));
  arrive(frame_of(200, 2));
  run_until([this] { return device_->metrics().requests != 0; });
  ASSERT_EQ(next_received().value().bytes, frame_of(200, 2));
  EXPECT_EQ(device_->metrics().failed_requests, 1U);
}

TEST_F(VirtioNetReceive, WithoutMergingALargerFrameIsDroppedAndTheNextComes) {
  create_on_socket();
  post(1526, 3);
  activate(0);
  arrive(frame_of(1515, 1));
  arrive(frame_of(1514, 2));
  settle();
  const auto frame = next_received();
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->header.num_buffers, 1);
  EXPECT_EQ(frame->bytes, frame_of(1514, 2));
  EXPECT_FALSE(next_received());
  EXPECT_EQ(device_->metrics().failed_requests, 1U);
}

TEST_F(VirtioNetReceive, RuntIsDropped) {
  create_on_socket();
  post(2048, 2);
  activate();
  arrive(frame_of(kSmallestFrame - 1));
  arrive(frame_of(kSmallestFrame, 2));
  settle();
  ASSERT_EQ(next_received().value().bytes, frame_of(kSmallestFrame, 2));
  EXPECT_EQ(device_->metrics().failed_requests, 1U);
}

TEST_F(VirtioNetReceive, OversizedFrameIsDropped) {
  create_on_socket();
  post(4096, 20);
  activate();
  arrive(frame_of(kLargestFrame + 1));
  arrive(frame_of(60, 2));
  settle();
  ASSERT_EQ(next_received().value().bytes, frame_of(60, 2));
  EXPECT_EQ(device_->metrics().failed_requests, 1U);
}

TEST_F(VirtioNetReceive, FrameThatNeedsAnOffloadNotAckedIsDropped) {
  create_on_socket();
  post(2048, 8);
  activate(kMergeable);
  arrive(frame_of(100, 1), {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM});
  arrive(frame_of(100, 2), {.gso_type = VIRTIO_NET_HDR_GSO_TCPV4});
  arrive(frame_of(100, 3), {.gso_type = 9});
  arrive(frame_of(100, 4));
  settle();
  ASSERT_EQ(next_received().value().bytes, frame_of(100, 4));
  EXPECT_EQ(device_->metrics().failed_requests, 3U);
}

TEST_F(VirtioNetReceive, FrameWithAckedOffloadsKeepsItsHeader) {
  create_on_socket();
  post(2048, 2);
  activate(kMergeable | kChecksums | net_bit(VIRTIO_NET_F_GUEST_TSO6) |
           net_bit(VIRTIO_NET_F_GUEST_ECN));
  const virtio_net_hdr_v1 header = {
      .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
      .gso_type = VIRTIO_NET_HDR_GSO_TCPV6 | VIRTIO_NET_HDR_GSO_ECN,
      .hdr_len = 74,
      .gso_size = 1440,
      .csum = {.start = 54, .offset = 16},
  };
  arrive(frame_of(1800), header);
  settle();
  const auto frame = next_received();
  ASSERT_TRUE(frame);
  virtio_net_hdr_v1 expected = header;
  expected.num_buffers = 1;
  EXPECT_EQ(text_of(frame->header), text_of(expected));
}

TEST_F(VirtioNetReceive, FlagsAreZeroWithoutGuestChecksums) {
  create_on_socket();
  post(2048, 1);
  activate(kMergeable);
  arrive(frame_of(100), {.flags = VIRTIO_NET_HDR_F_DATA_VALID});
  settle();
  EXPECT_EQ(next_received().value().header.flags, 0);
}

TEST_F(VirtioNetReceive, BufferShorterThanTheHeaderBreaksTheQueue) {
  create_on_socket();
  activate();
  post(11);
  arrive(frame_of(100));
  settle();
  EXPECT_EQ(broken_, std::vector<unsigned>{NetDevice::kRx});
  EXPECT_TRUE(device_->process_queue(NetDevice::kRx));  // left alone
}

TEST_F(VirtioNetReceive, ReadableBufferIsTheDriversFaultAtItsKick) {
  create_on_socket();
  activate();
  arrive(frame_of(100));
  settle();
  const uint64_t at = guest_.allocate(4096);
  rx_.add_chain({{at, 2048, false}});
  EXPECT_FALSE(device_->process_queue(NetDevice::kRx));
  EXPECT_TRUE(broken_.empty());
}

TEST_F(VirtioNetReceive, SameBufferMadeAvailableOverAndOverIsHarmless) {
  create_on_socket();
  activate();
  const uint64_t at = guest_.allocate(4096);
  const uint16_t head = rx_.add_chain({{at, 64, true}});
  for (int i = 1; i < 32; ++i) rx_.publish(head);
  // Zeros, because the frame overwrites its own header.
  arrive(std::string(1000, '\0'));
  settle();
  for (int i = 0; i < 16; ++i) EXPECT_EQ(rx_.next_used().value().id, head);
  EXPECT_EQ(device_->metrics().requests, 1U);
}

TEST_F(VirtioNetReceive, LimiterHoldsTheNextFrameBack) {
  NetOptions options;
  options.rx_limiter.ops = {.size = 1, .refill_time_ms = 3'600'000};
  create_on_socket(std::move(options));
  post(2048, 3);
  activate();
  arrive(frame_of(100, 1));
  arrive(frame_of(100, 2));
  settle();
  EXPECT_TRUE(next_received());
  kick();
  EXPECT_FALSE(next_received());
  EXPECT_EQ(device_->metrics().rate_limiter_hits, 1U);
  EXPECT_EQ(device_->metrics().failed_requests, 0U);
}

TEST_F(VirtioNetReceive, FrameHeldBackComesWhenTheLimiterAllows) {
  NetOptions options;
  options.rx_limiter.bandwidth = {.size = 200, .refill_time_ms = 50};
  create_on_socket(std::move(options));
  post(100, 16);
  activate();
  for (unsigned i = 1; i <= 3; ++i) arrive(frame_of(200, i));
  run_until([this] { return device_->metrics().requests == 3; });
  for (unsigned i = 1; i <= 3; ++i) ASSERT_EQ(next_received().value().bytes, frame_of(200, i));
  EXPECT_GE(device_->metrics().rate_limiter_hits, 2U);
}

TEST_F(VirtioNetReceive, SuspendGivesUnusedBuffersBack) {
  create_on_socket();
  post(2048, 4);
  activate();
  arrive(frame_of(100, 1));
  settle();
  device_->suspend();
  EXPECT_EQ(rx_queue_->next_available(), 1);
  arrive(frame_of(100, 2));
  settle();
  rx_queue_ = std::move(*Queue::create(guest_.memory(), rx_.config(), 1));
  activate();
  ASSERT_EQ(next_received().value().bytes, frame_of(100, 1));
  ASSERT_EQ(next_received().value().bytes, frame_of(100, 2));
}

TEST_F(VirtioNetReceive, FrameThatWaitsSurvivesSuspend) {
  create_on_socket();
  post(1000, 1);
  activate();
  arrive(frame_of(1500));
  settle();
  device_->suspend();
  post(1000, 1);
  activate();
  ASSERT_EQ(next_received().value().bytes, frame_of(1500));
}

TEST_F(VirtioNetReceive, FrameThatWaitsDoesNotSurviveReset) {
  create_on_socket();
  post(1000, 1);
  activate();
  arrive(frame_of(1500, 1));
  settle();
  device_->reset();
  post(1000, 2);
  rx_queue_ = std::move(*Queue::create(guest_.memory(), rx_.config(), 0));
  activate();
  arrive(frame_of(1500, 2));
  settle();
  ASSERT_EQ(next_received().value().bytes, frame_of(1500, 2));
}

TEST_F(VirtioNetReceive, MoreFramesThanATurnHasAllCome) {
  create_on_socket();
  activate();
  unsigned received = 0;
  for (unsigned round = 0; round < 20; ++round) {
    post(128, 16);
    for (unsigned i = 0; i < 16; ++i) arrive(frame_of(64, round * 16 + i));
    kick();
    settle();
    for (unsigned i = 0; i < 16; ++i, ++received)
      ASSERT_EQ(next_received().value().bytes, frame_of(64, received));
  }
}

// virtio 1.2 §2.7.10.1: the driver kicks when it makes the buffer at this index available.
TEST_F(VirtioNetReceive, AsksForTheNextBufferWhenItHasTooFew) {
  FakeDriver driver(guest_, 32, true);
  create_on_socket();
  rx_queue_ = driver.queue();
  activate();
  arrive(frame_of(3000));
  const uint64_t event = driver.config().used_ring + 4 + 8 * 32;
  settle();
  EXPECT_EQ(guest_.get<uint16_t>(event), 0);
  for (uint16_t i = 1; i <= 2; ++i) {
    driver.add_chain({{guest_.allocate(1000), 1000, true}});
    kick();
    EXPECT_EQ(guest_.get<uint16_t>(event), i);
  }
  driver.add_chain({{guest_.allocate(2000), 2000, true}});
  kick();
  EXPECT_TRUE(driver.next_used());
}

}  // namespace
}  // namespace kiln::vmm
