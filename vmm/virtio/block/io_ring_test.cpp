// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/block/io_ring.h"

#include <gtest/gtest.h>
#include <poll.h>

namespace kiln::vmm {
namespace {

class IoRingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto ring = IoRing::create(8);
    if (!ring) GTEST_SKIP() << ring.error().message;
    ring_ = std::move(*ring);
  }
  void add(uint64_t tag) {
    io_uring_sqe* const entry = ring_->prepare();
    ASSERT_NE(entry, nullptr);
    entry->opcode = IORING_OP_NOP;
    entry->user_data = tag;
  }
  bool readable() const {
    pollfd wanted{ring_->event_fd(), POLLIN, 0};
    return poll(&wanted, 1, 0) == 1;
  }
  std::vector<uint64_t> completed() {
    std::vector<uint64_t> tags;
    IoRing::Completion completion;
    while (ring_->pop(completion)) tags.push_back(completion.tag);
    return tags;
  }

  std::unique_ptr<IoRing> ring_;
};

TEST_F(IoRingTest, WhatIsSubmittedIsCompleted) {
  for (uint64_t round = 0; round < 5; ++round) {
    for (uint64_t i = 0; i < 8; ++i) add(i);
    EXPECT_TRUE(ring_->has_unsubmitted());
    ASSERT_TRUE(ring_->submit());
    EXPECT_FALSE(ring_->has_unsubmitted());
    EXPECT_EQ(completed(), (std::vector<uint64_t>{0, 1, 2, 3, 4, 5, 6, 7}));
  }
}

TEST_F(IoRingTest, FullRingHasNoEntry) {
  for (uint64_t i = 0; i < 8; ++i) add(i);
  EXPECT_EQ(ring_->prepare(), nullptr);
}

TEST_F(IoRingTest, WithdrawTakesTheYoungestBack) {
  for (uint64_t i = 0; i < 3; ++i) add(i);
  EXPECT_EQ(ring_->withdraw(), 2U);
  ASSERT_TRUE(ring_->submit_and_wait());
  EXPECT_EQ(completed(), (std::vector<uint64_t>{0, 1}));
  EXPECT_EQ(ring_->withdraw(), std::nullopt);
}

TEST_F(IoRingTest, BadEntryIsCompletedAndDoesNotStopTheOthers) {
  add(1);
  io_uring_sqe* const bad = ring_->prepare();
  bad->opcode = 255;
  bad->user_data = 2;
  add(3);
  ASSERT_TRUE(ring_->submit());
  EXPECT_EQ(completed(), (std::vector<uint64_t>{1, 2, 3}));
}

TEST_F(IoRingTest, EventComesOnlyWhileEnabled) {
  ring_->enable_events(false);
  add(1);
  ASSERT_TRUE(ring_->submit());
  EXPECT_FALSE(readable());
  ring_->enable_events(true);
  add(2);
  ASSERT_TRUE(ring_->submit());
  EXPECT_TRUE(readable());
  ring_->clear_event();
  EXPECT_FALSE(readable());
}

}  // namespace
}  // namespace kiln::vmm
