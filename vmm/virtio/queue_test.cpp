// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/queue.h"

#include <gtest/gtest.h>

#include <array>

#include "tests/support/fake_driver.h"

namespace kiln::vmm {
namespace {

constexpr uint16_t kSize = 8;

class QueueTest : public ::testing::Test {
 protected:
  FakeGuest guest_;
  FakeDriver driver_{guest_, kSize};
  std::unique_ptr<Queue> queue_ = driver_.queue();
  uint64_t page_ = guest_.allocate(4096);

  void describe(uint16_t index, uint64_t address, uint32_t size, uint16_t flags, uint16_t next) {
    vring_desc descriptor{};
    descriptor.addr = address;
    descriptor.len = size;
    descriptor.flags = flags;
    descriptor.next = next;
    driver_.set_descriptor(index, descriptor);
  }
  void expect_broken() {
    const auto popped = queue_->pop();
    EXPECT_FALSE(popped);
    EXPECT_TRUE(queue_->broken());
    // And it stays so.
    EXPECT_FALSE(queue_->pop());
  }
};

TEST_F(QueueTest, GivesOutAChainAndTakesItBack) {
  const uint16_t head =
      driver_.add_chain({{page_, 16, false}, {page_ + 64, 32, false}, {page_ + 128, 100, true}});
  const auto chain = queue_->pop();
  ASSERT_TRUE(chain && *chain);
  EXPECT_EQ((*chain)->head, head);
  EXPECT_EQ((*chain)->readable_size, 48U);
  EXPECT_EQ((*chain)->writable_size, 100U);
  ASSERT_EQ((*chain)->readable.size(), 2U);
  EXPECT_EQ((*chain)->readable[1].address, page_ + 64);
  ASSERT_TRUE(queue_->push_used(head, 7));
  const auto used = driver_.next_used();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->id, head);
  EXPECT_EQ(used->len, 7U);
}

TEST_F(QueueTest, TakesBackSeveralChainsInOrder) {
  const uint16_t first = driver_.add_chain({{page_, 16, true}});
  const uint16_t second = driver_.add_chain({{page_ + 64, 16, true}});
  ASSERT_TRUE(*queue_->pop());
  ASSERT_TRUE(*queue_->pop());
  const std::array<UsedChain, 2> chains = {UsedChain{first, 16}, UsedChain{second, 3}};
  ASSERT_TRUE(queue_->push_used(chains));
  const auto one = driver_.next_used();
  const auto two = driver_.next_used();
  ASSERT_TRUE(one && two);
  EXPECT_EQ(one->id, first);
  EXPECT_EQ(one->len, 16U);
  EXPECT_EQ(two->id, second);
  EXPECT_EQ(two->len, 3U);
  EXPECT_TRUE(queue_->needs_interrupt());
}

TEST_F(QueueTest, OneBadHeadAmongSeveralPushesNone) {
  const uint16_t head = driver_.add_chain({{page_, 16, true}});
  ASSERT_TRUE(*queue_->pop());
  const std::array<UsedChain, 2> chains = {UsedChain{head, 16}, UsedChain{kSize, 3}};
  EXPECT_FALSE(queue_->push_used(chains));
  EXPECT_FALSE(driver_.next_used());
}

TEST_F(QueueTest, IsEmptyWithoutChains) {
  const auto chain = queue_->pop();
  ASSERT_TRUE(chain);
  EXPECT_FALSE(*chain);
  EXPECT_FALSE(queue_->has_available());
}

TEST_F(QueueTest, TakesBackWhatWasPopped) {
  driver_.add_chain({{page_, 16, false}});
  ASSERT_TRUE(*queue_->pop());
  queue_->undo_pop();
  EXPECT_TRUE(queue_->has_available());
  EXPECT_TRUE(*queue_->pop());
}

TEST_F(QueueTest, GoesOnPastTheEndOfItsIndices) {
  for (int i = 0; i < 70'000; ++i) {
    driver_.add_chain({{page_, 16, true}});
    const auto chain = queue_->pop();
    ASSERT_TRUE(chain && *chain) << i;
    ASSERT_TRUE(queue_->push_used((*chain)->head, 1));
    ASSERT_TRUE(driver_.next_used()) << i;
  }
}

TEST_F(QueueTest, LoopBreaksTheQueue) {
  describe(0, page_, 16, VRING_DESC_F_NEXT, 1);
  describe(1, page_, 16, VRING_DESC_F_NEXT, 0);
  driver_.publish(0);
  expect_broken();
}

TEST_F(QueueTest, AddressOutsideOfMemoryBreaksTheQueue) {
  describe(0, FakeGuest::kSize - 8, 16, 0, 0);
  driver_.publish(0);
  expect_broken();
}

TEST_F(QueueTest, AddressThatWrapsBreaksTheQueue) {
  describe(0, UINT64_MAX - 4, 16, 0, 0);
  driver_.publish(0);
  expect_broken();
}

TEST_F(QueueTest, SizesBeyond32BitsInAllBreakTheQueue) {
  describe(0, 4096, UINT32_MAX, VRING_DESC_F_NEXT, 1);
  describe(1, 4096, UINT32_MAX, 0, 0);
  driver_.publish(0);
  expect_broken();
}

TEST_F(QueueTest, HeadOutsideOfTheTableBreaksTheQueue) {
  driver_.publish(kSize);
  expect_broken();
}

TEST_F(QueueTest, NextOutsideOfTheTableBreaksTheQueue) {
  describe(0, page_, 16, VRING_DESC_F_NEXT, kSize);
  driver_.publish(0);
  expect_broken();
}

TEST_F(QueueTest, ReadableAfterWritableBreaksTheQueue) {
  driver_.add_chain({{page_, 16, true}, {page_, 16, false}});
  expect_broken();
}

TEST_F(QueueTest, MoreAvailableThanTheQueueHoldsBreaksIt) {
  driver_.set_available_index(kSize + 1);
  expect_broken();
}

TEST_F(QueueTest, EmptyBuffersNeverReachTheDevice) {
  driver_.add_chain({{page_, 0, false}, {page_, 16, true}});
  const auto chain = queue_->pop();
  if (!chain) {
    EXPECT_TRUE(queue_->broken());
    return;
  }
  for (const GuestRange& range : (*chain)->readable) EXPECT_NE(range.size, 0U);
}

TEST_F(QueueTest, FollowsAnIndirectTable) {
  const uint64_t table = guest_.allocate(4096);
  guest_.put(table, vring_desc{page_, 16, VRING_DESC_F_NEXT, 1});
  guest_.put(table + 16, vring_desc{page_ + 64, 8, VRING_DESC_F_WRITE, 0});
  describe(0, table, 32, VRING_DESC_F_INDIRECT, 0);
  driver_.publish(0);
  const auto chain = queue_->pop();
  ASSERT_TRUE(chain && *chain);
  EXPECT_EQ((*chain)->readable_size, 16U);
  EXPECT_EQ((*chain)->writable_size, 8U);
}

TEST_F(QueueTest, IndirectTableInATableBreaksTheQueue) {
  const uint64_t table = guest_.allocate(4096);
  guest_.put(table, vring_desc{table, 16, VRING_DESC_F_INDIRECT, 0});
  describe(0, table, 16, VRING_DESC_F_INDIRECT, 0);
  driver_.publish(0);
  expect_broken();
}

TEST_F(QueueTest, IndirectTableOfAnOddSizeBreaksTheQueue) {
  describe(0, page_, 17, VRING_DESC_F_INDIRECT, 0);
  driver_.publish(0);
  expect_broken();
}

TEST_F(QueueTest, RingOutsideOfMemoryIsRefused) {
  QueueConfig config = driver_.config();
  config.used_ring = FakeGuest::kSize - 2;
  EXPECT_FALSE(Queue::create(guest_.memory(), config));
}

// What the device gives back would be what the driver makes available, without an end.
TEST_F(QueueTest, PartsThatOverlapAreRefused) {
  QueueConfig config = driver_.config();
  config.used_ring = config.available_ring;
  EXPECT_FALSE(Queue::create(guest_.memory(), config));
  config.used_ring = config.available_ring + 4;
  EXPECT_FALSE(Queue::create(guest_.memory(), config));
  config = driver_.config();
  config.available_ring = config.descriptor_table + 16;
  EXPECT_FALSE(Queue::create(guest_.memory(), config));
}

TEST_F(QueueTest, SizeThatIsNoPowerOfTwoIsRefused) {
  QueueConfig config = driver_.config();
  config.size = 6;
  EXPECT_FALSE(Queue::create(guest_.memory(), config));
  config.size = 0;
  EXPECT_FALSE(Queue::create(guest_.memory(), config));
}

TEST_F(QueueTest, InterruptsUnlessTheDriverAskedNotTo) {
  // virtio 1.2 §2.7.7: VIRTQ_AVAIL_F_NO_INTERRUPT.
  driver_.add_chain({{page_, 16, true}});
  ASSERT_TRUE(*queue_->pop());
  ASSERT_TRUE(queue_->push_used(0, 0));
  EXPECT_TRUE(queue_->needs_interrupt());
  EXPECT_FALSE(queue_->needs_interrupt());
  guest_.put(driver_.config().available_ring, uint16_t{VRING_AVAIL_F_NO_INTERRUPT});
  ASSERT_TRUE(queue_->push_used(0, 0));
  EXPECT_FALSE(queue_->needs_interrupt());
}

TEST_F(QueueTest, AsksNotToBeKicked) {
  queue_->set_notification(false);
  EXPECT_EQ(guest_.get<uint16_t>(driver_.config().used_ring), VRING_USED_F_NO_NOTIFY);
  queue_->set_notification(true);
  EXPECT_EQ(guest_.get<uint16_t>(driver_.config().used_ring), 0U);
}

TEST(QueueEventIndex, InterruptsOnceTheWantedIndexIsPassed) {
  FakeGuest guest;
  FakeDriver driver(guest, kSize, true);
  const auto queue = driver.queue();
  const uint64_t page = guest.allocate(4096);
  // used_event is after the available ring's entries (§2.7.6.1): wake at the third.
  guest.put(driver.config().available_ring + 4 + 2 * kSize, uint16_t{2});
  std::vector<bool> interrupts;
  for (int i = 0; i < 4; ++i) {
    driver.add_chain({{page, 16, true}});
    const auto chain = queue->pop();
    ASSERT_TRUE(chain && *chain);
    ASSERT_TRUE(queue->push_used((*chain)->head, 0));
    interrupts.push_back(queue->needs_interrupt());
  }
  // The first call has no earlier index to compare with, and is on the safe side.
  EXPECT_TRUE(interrupts[2]);
  EXPECT_FALSE(interrupts[1]);
  EXPECT_FALSE(interrupts[3]);
}

}  // namespace
}  // namespace kiln::vmm
