// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/rng/rng_device.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "tests/support/fake_driver.h"

namespace kiln::vmm {
namespace {

constexpr uint32_t kMiB = 1U << 20;

RateLimiterConfig one_request_per(uint64_t milliseconds) {
  RateLimiterConfig config;
  config.ops = {.size = 1, .refill_time_ms = milliseconds};
  return config;
}

class VirtioRng : public ::testing::Test {
 protected:
  void SetUp() override {
    loop_ = std::move(*EventLoop::create());
    buffer_ = guest_.allocate(kMiB);
    make({});
  }
  void make(const RateLimiterConfig& config) {
    device_ = std::move(*RngDevice::create(*loop_, config));
    activate();
  }
  void activate() {
    Activation activation;
    activation.memory = guest_.memory();
    activation.queues = {queue_.get()};
    activation.interrupt = [this](unsigned) { ++interrupts_; };
    activation.broken = [this](unsigned, const Error&) { ++broken_; };
    ASSERT_TRUE(device_->activate(std::move(activation)));
  }
  void ask(uint32_t size) { driver_.add_chain({{buffer_, size, true}}); }
  // What was written by each request that was answered.
  std::vector<uint32_t> answers() {
    std::vector<uint32_t> out;
    while (const auto used = driver_.next_used()) out.push_back(used->len);
    return out;
  }
  void run() {
    for (int i = 0; i < 10; ++i) ASSERT_TRUE(loop_->run_once(0));
  }
  bool is_zero(uint64_t address, size_t size) const {
    const std::string bytes = guest_.get_text(address, size);
    return std::all_of(bytes.begin(), bytes.end(), [](char byte) { return byte == 0; });
  }

  FakeGuest guest_;
  FakeDriver driver_{guest_, 64};
  std::unique_ptr<Queue> queue_ = driver_.queue();
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<RngDevice> device_;
  uint64_t buffer_ = 0;
  int interrupts_ = 0;
  int broken_ = 0;
};

TEST_F(VirtioRng, FillsTheWholeBufferAndNothingBehindIt) {
  ask(64);
  ASSERT_TRUE(device_->process_queue(0));
  EXPECT_EQ(answers(), std::vector<uint32_t>{64});
  EXPECT_FALSE(is_zero(buffer_, 32));
  EXPECT_FALSE(is_zero(buffer_ + 32, 32));
  EXPECT_TRUE(is_zero(buffer_ + 64, 4096));
  EXPECT_EQ(interrupts_, 1);
}

TEST_F(VirtioRng, FillsScatteredBuffers) {
  driver_.add_chain({{buffer_, 32, true}, {buffer_ + 8192, 32, true}});
  ASSERT_TRUE(device_->process_queue(0));
  EXPECT_EQ(answers(), std::vector<uint32_t>{64});
  EXPECT_FALSE(is_zero(buffer_, 32));
  EXPECT_TRUE(is_zero(buffer_ + 32, 32));
  EXPECT_FALSE(is_zero(buffer_ + 8192, 32));
}

TEST_F(VirtioRng, GivesEachRequestOtherBytes) {
  ask(32);
  ASSERT_TRUE(device_->process_queue(0));
  const std::string first = guest_.get_text(buffer_, 32);
  ask(32);
  ASSERT_TRUE(device_->process_queue(0));
  EXPECT_NE(guest_.get_text(buffer_, 32), first);
}

// §5.4.6.2: the device may use less than the entire buffer.
TEST_F(VirtioRng, BoundsWhatOneRequestGets) {
  ask(kMiB);
  ASSERT_TRUE(device_->process_queue(0));
  EXPECT_EQ(answers(), std::vector<uint32_t>{RngDevice::kMaxRequest});
  EXPECT_TRUE(is_zero(buffer_ + RngDevice::kMaxRequest, 4096));
}

// §5.4.6.1.
TEST_F(VirtioRng, ReturnsReadableBuffersEmpty) {
  driver_.add_chain({{buffer_, 16, false}, {buffer_ + 4096, 16, true}});
  driver_.add_chain({{buffer_, 16, false}});
  ASSERT_TRUE(device_->process_queue(0));
  EXPECT_EQ(answers(), (std::vector<uint32_t>{0, 0}));
  EXPECT_TRUE(is_zero(buffer_, 8192));
  EXPECT_EQ(device_->metrics().failed_requests, 2U);
}

TEST_F(VirtioRng, ReturnsZeroLengthBuffersEmpty) {
  ask(0);
  ASSERT_TRUE(device_->process_queue(0));
  EXPECT_EQ(answers(), std::vector<uint32_t>{0});
  EXPECT_EQ(device_->metrics().failed_requests, 1U);
}

TEST_F(VirtioRng, ReportsBuffersOutsideMemoryAsBroken) {
  driver_.add_chain({{FakeGuest::kSize - 16, 32, true}});
  EXPECT_FALSE(device_->process_queue(0));
  EXPECT_TRUE(answers().empty());
}

TEST_F(VirtioRng, CountsRequestsAndBytes) {
  ask(64);
  ask(100);
  ASSERT_TRUE(device_->process_queue(0));
  const DeviceMetrics metrics = device_->metrics();
  EXPECT_EQ(metrics.requests, 2U);
  EXPECT_EQ(metrics.bytes_to_guest, 164U);
  EXPECT_EQ(metrics.failed_requests, 0U);
  EXPECT_EQ(metrics.rate_limiter_hits, 0U);
}

TEST_F(VirtioRng, ServesManyRequestsInTurns) {
  for (int i = 0; i < 60; ++i) ask(16);
  ASSERT_TRUE(device_->process_queue(0));
  const size_t at_once = answers().size();
  EXPECT_LT(at_once, 60U);
  run();
  EXPECT_EQ(at_once + answers().size(), 60U);
}

TEST_F(VirtioRng, HoldsRequestsBackThatAreOverTheLimit) {
  make(one_request_per(3'600'000));
  ask(16);
  ask(16);
  ASSERT_TRUE(device_->process_queue(0));
  run();
  EXPECT_EQ(answers().size(), 1U);
  EXPECT_EQ(device_->metrics().rate_limiter_hits, 1U);
}

TEST_F(VirtioRng, GoesOnWhenTheLimitAllows) {
  make(one_request_per(1));
  for (int i = 0; i < 3; ++i) ask(16);
  ASSERT_TRUE(device_->process_queue(0));
  // Ends when all are there, or by the suite's time-out.
  size_t answered = answers().size();
  while (answered < 3) {
    ASSERT_TRUE(loop_->run_once(100));
    answered += answers().size();
  }
  EXPECT_EQ(answered, 3U);
}

TEST_F(VirtioRng, KeepsTheLimitOverAReset) {
  make(one_request_per(3'600'000));
  ask(16);
  ASSERT_TRUE(device_->process_queue(0));
  device_->reset();
  activate();
  ask(16);
  ASSERT_TRUE(device_->process_queue(0));
  EXPECT_EQ(answers().size(), 1U);
}

TEST_F(VirtioRng, FindsWaitingRequestsAgainAfterAPause) {
  make(one_request_per(1));
  ask(16);
  ask(16);
  ASSERT_TRUE(device_->process_queue(0));
  const uint16_t next = queue_->next_available();
  device_->suspend();
  queue_ = std::move(*Queue::create(guest_.memory(), driver_.config(), next));
  activate();
  size_t answered = answers().size();
  while (answered < 2) {
    ASSERT_TRUE(device_->process_queue(0));
    ASSERT_TRUE(loop_->run_once(1));
    answered += answers().size();
  }
  EXPECT_EQ(answered, 2U);
}

TEST_F(VirtioRng, TouchesNothingWhileSuspended) {
  make(one_request_per(1));
  ask(16);
  ask(16);
  ASSERT_TRUE(device_->process_queue(0));
  EXPECT_EQ(answers().size(), 1U);
  device_->suspend();
  ask(16);
  ASSERT_TRUE(device_->process_queue(0));
  ASSERT_TRUE(loop_->run_once(5));
  EXPECT_TRUE(answers().empty());
}

TEST_F(VirtioRng, TellsTheTransportOfARingThatBreaksWhileItWaits) {
  make(one_request_per(1));
  ask(16);
  ask(16);
  ASSERT_TRUE(device_->process_queue(0));
  driver_.set_available_index(1000);
  driver_.set_descriptor(1, vring_desc{FakeGuest::kSize, 16, VRING_DESC_F_WRITE, 0});
  while (broken_ == 0) ASSERT_TRUE(loop_->run_once(100));
  EXPECT_EQ(broken_, 1);
  EXPECT_EQ(answers().size(), 1U);
}

TEST_F(VirtioRng, IgnoresQueuesThatItDoesNotHave) {
  EXPECT_TRUE(device_->process_queue(1));
  Activation activation;
  activation.memory = guest_.memory();
  activation.queues = {nullptr};
  ASSERT_TRUE(device_->activate(std::move(activation)));
  EXPECT_TRUE(device_->process_queue(0));
}

// §2.5: what is not there reads as zero.
TEST_F(VirtioRng, HasAnEmptyConfiguration) {
  std::array<std::byte, 8> bytes;
  bytes.fill(std::byte{0xff});
  device_->read_config(UINT32_MAX - 2, bytes);
  EXPECT_EQ(bytes, (std::array<std::byte, 8>{}));
  EXPECT_EQ(device_->features(), 0U);
}

}  // namespace
}  // namespace kiln::vmm
