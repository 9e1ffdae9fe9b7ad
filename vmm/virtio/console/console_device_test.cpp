// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/console/console_device.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "tests/support/fake_driver.h"

namespace kiln::vmm {
namespace {

constexpr unsigned kReceive = 0;
constexpr unsigned kTransmit = 1;
constexpr uint32_t kBufferSize = 1U << 20;

class VirtioConsole : public ::testing::Test {
 protected:
  void SetUp() override {
    loop_ = std::move(*EventLoop::create());
    device_ = std::move(*ConsoleDevice::create(*loop_, [this](std::string_view bytes) {
      printed_ += bytes;
      largest_ = std::max(largest_, bytes.size());
      used_at_output_ = used_index();
    }));
    buffer_ = guest_.allocate(kBufferSize);
    activate();
  }
  void activate() {
    Activation activation;
    activation.memory = guest_.memory();
    activation.queues = {receive_queue_.get(), transmit_queue_.get()};
    activation.interrupt = [this](unsigned index) { ++interrupts_[index]; };
    activation.broken = [this](unsigned index, const Error&) { ++broken_[index]; };
    ASSERT_TRUE(device_->activate(std::move(activation)));
  }
  // As the transport does around a pause.
  void renew_queues() {
    receive_queue_ = std::move(
        *Queue::create(guest_.memory(), receive_.config(), receive_queue_->next_available()));
    transmit_queue_ = std::move(
        *Queue::create(guest_.memory(), transmit_.config(), transmit_queue_->next_available()));
  }
  uint16_t used_index() const { return guest_.get<uint16_t>(transmit_.config().used_ring + 2); }
  void print(std::string_view text) {
    guest_.put_text(buffer_, text);
    transmit_.add_chain({{buffer_, static_cast<uint32_t>(text.size()), false}});
  }
  void run() {
    for (int i = 0; i < 10; ++i) ASSERT_TRUE(loop_->run_once(0));
  }

  FakeGuest guest_;
  FakeDriver receive_{guest_, 64};
  FakeDriver transmit_{guest_, 64};
  std::unique_ptr<Queue> receive_queue_ = receive_.queue();
  std::unique_ptr<Queue> transmit_queue_ = transmit_.queue();
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<ConsoleDevice> device_;
  std::string printed_;
  size_t largest_ = 0;
  uint16_t used_at_output_ = 0;
  uint64_t buffer_ = 0;
  std::array<int, 2> interrupts_{};
  std::array<int, 2> broken_{};
};

TEST_F(VirtioConsole, HandsOnWhatTheGuestPrints) {
  print("Linux version 6.1\n");
  ASSERT_TRUE(device_->process_queue(kTransmit));
  EXPECT_EQ(printed_, "Linux version 6.1\n");
  EXPECT_EQ(transmit_.next_used()->len, 0U);
  EXPECT_EQ(interrupts_[kTransmit], 1);
  EXPECT_EQ(device_->metrics().bytes_from_guest, 18U);
}

TEST_F(VirtioConsole, KeepsTheOrderOfScatteredBuffersAndChains) {
  guest_.put_text(buffer_, "worldhello ");
  transmit_.add_chain({{buffer_ + 5, 6, false}, {buffer_, 5, false}});
  transmit_.add_chain({{buffer_ + 5, 1, false}});
  ASSERT_TRUE(device_->process_queue(kTransmit));
  EXPECT_EQ(printed_, "hello worldh");
}

// A panicking kernel spins for its buffer.
TEST_F(VirtioConsole, GivesTheBufferBackBeforeItsOutput) {
  print("Kernel panic");
  ASSERT_TRUE(device_->process_queue(kTransmit));
  EXPECT_EQ(used_at_output_, 1U);
}

TEST_F(VirtioConsole, CutsLongBuffersIntoPieces) {
  const std::string text(3 * ConsoleDevice::kMaxPiece + 1, 'x');
  print(text);
  ASSERT_TRUE(device_->process_queue(kTransmit));
  EXPECT_EQ(printed_, text);
  EXPECT_EQ(largest_, ConsoleDevice::kMaxPiece);
  EXPECT_EQ(device_->metrics().requests, 1U);
}

TEST_F(VirtioConsole, GivesOthersATurnInTheMiddleOfALongChain) {
  transmit_.add_chain({{buffer_, kBufferSize, false}, {buffer_, kBufferSize, false}});
  ASSERT_TRUE(device_->process_queue(kTransmit));
  EXPECT_LT(printed_.size(), kBufferSize);
  EXPECT_FALSE(transmit_.next_used());
  while (printed_.size() < 2 * kBufferSize) ASSERT_TRUE(loop_->run_once(100));
  EXPECT_TRUE(transmit_.next_used());
  EXPECT_EQ(device_->metrics().bytes_from_guest, 2 * kBufferSize);
}

TEST_F(VirtioConsole, GoesOnWithALongChainAfterAPause) {
  transmit_.add_chain({{buffer_, kBufferSize, false}});
  ASSERT_TRUE(device_->process_queue(kTransmit));
  device_->suspend();
  const size_t before = printed_.size();
  run();
  EXPECT_EQ(printed_.size(), before);
  renew_queues();
  activate();
  ASSERT_TRUE(device_->process_queue(kTransmit));
  while (!transmit_.next_used()) ASSERT_TRUE(loop_->run_once(100));
  EXPECT_EQ(printed_.size(), kBufferSize);
}

TEST_F(VirtioConsole, ForgetsALongChainOnReset) {
  transmit_.add_chain({{buffer_, kBufferSize, false}});
  ASSERT_TRUE(device_->process_queue(kTransmit));
  device_->reset();
  const size_t before = printed_.size();
  renew_queues();
  activate();
  print("again");
  ASSERT_TRUE(device_->process_queue(kTransmit));
  EXPECT_EQ(printed_.substr(before), "again");
}

TEST_F(VirtioConsole, DoesNotWriteIntoTransmitBuffers) {
  guest_.put_text(buffer_, "abcdefgh");
  transmit_.add_chain({{buffer_, 4, false}, {buffer_ + 4, 4, true}});
  ASSERT_TRUE(device_->process_queue(kTransmit));
  EXPECT_EQ(printed_, "abcd");
  EXPECT_EQ(transmit_.next_used()->len, 0U);
  EXPECT_EQ(guest_.get_text(buffer_, 8), "abcdefgh");
  EXPECT_EQ(device_->metrics().failed_requests, 1U);
}

TEST_F(VirtioConsole, ReturnsEmptyTransmitBuffers) {
  transmit_.add_chain({{buffer_, 0, false}});
  ASSERT_TRUE(device_->process_queue(kTransmit));
  EXPECT_TRUE(transmit_.next_used());
  EXPECT_EQ(printed_, "");
}

TEST_F(VirtioConsole, ReportsBuffersOutsideMemoryAsBroken) {
  transmit_.add_chain({{FakeGuest::kSize - 1, 2, false}});
  EXPECT_FALSE(device_->process_queue(kTransmit));
  EXPECT_EQ(printed_, "");
}

TEST_F(VirtioConsole, TypesIntoWaitingBuffers) {
  receive_.add_chain({{buffer_, 4, true}});
  receive_.add_chain({{buffer_ + 4096, 64, true}});
  ASSERT_TRUE(device_->process_queue(kReceive));
  EXPECT_EQ(interrupts_[kReceive], 0);
  EXPECT_EQ(device_->type("whoami\n"), 7U);
  EXPECT_EQ(receive_.next_used()->len, 4U);
  EXPECT_EQ(receive_.next_used()->len, 3U);
  EXPECT_EQ(guest_.get_text(buffer_, 4), "whoa");
  EXPECT_EQ(guest_.get_text(buffer_ + 4096, 3), "mi\n");
  EXPECT_EQ(interrupts_[kReceive], 1);
  EXPECT_EQ(device_->metrics().bytes_to_guest, 7U);
}

TEST_F(VirtioConsole, KeepsWhatIsTypedUntilThereAreBuffers) {
  device_->suspend();
  EXPECT_EQ(device_->type("early"), 5U);
  activate();
  EXPECT_EQ(device_->type(" bird"), 5U);
  receive_.add_chain({{buffer_, 64, true}});
  ASSERT_TRUE(device_->process_queue(kReceive));
  EXPECT_EQ(receive_.next_used()->len, 10U);
  EXPECT_EQ(guest_.get_text(buffer_, 10), "early bird");
}

TEST_F(VirtioConsole, TakesNoMoreThanTheBoundOfWhatIsTyped) {
  const std::string much(ConsoleDevice::kMaxTyped - 1, 'x');
  EXPECT_EQ(device_->type(much), much.size());
  EXPECT_EQ(device_->type("yz"), 1U);
  EXPECT_EQ(device_->type("z"), 0U);
}

// Linux adds its receive buffers one by one: no kick for any of them while nobody types.
TEST_F(VirtioConsole, WantsNoKicksForReceiveBuffersWhileNothingIsTyped) {
  EXPECT_EQ(guest_.get<uint16_t>(receive_.config().used_ring), VRING_USED_F_NO_NOTIFY);
  device_->type("x");
  EXPECT_EQ(guest_.get<uint16_t>(receive_.config().used_ring), 0U);
  receive_.add_chain({{buffer_, 64, true}});
  ASSERT_TRUE(device_->process_queue(kReceive));
  EXPECT_EQ(guest_.get<uint16_t>(receive_.config().used_ring), VRING_USED_F_NO_NOTIFY);
}

TEST_F(VirtioConsole, ReportsReceiveBuffersWithoutRoomAsBroken) {
  receive_.add_chain({{buffer_, 64, false}});
  ASSERT_TRUE(device_->process_queue(kReceive));  // nothing to put there yet
  EXPECT_EQ(device_->type("x"), 1U);
  EXPECT_EQ(broken_[kReceive], 1);
  EXPECT_FALSE(receive_.next_used());
}

TEST_F(VirtioConsole, IgnoresQueuesThatAreNotThere) {
  EXPECT_TRUE(device_->process_queue(2));
  Activation activation;
  activation.memory = guest_.memory();
  activation.queues = {nullptr, nullptr};
  ASSERT_TRUE(device_->activate(std::move(activation)));
  EXPECT_TRUE(device_->process_queue(kTransmit));
  EXPECT_TRUE(device_->process_queue(kReceive));
  EXPECT_EQ(device_->type("x"), 1U);
}

TEST_F(VirtioConsole, HasOnePortAndNoConfiguration) {
  EXPECT_EQ(device_->features(), 0U);
  EXPECT_EQ(device_->queue_sizes().size(), 2U);
  std::array<std::byte, 16> bytes;
  bytes.fill(std::byte{0xff});
  device_->read_config(0, bytes);
  EXPECT_EQ(bytes, (std::array<std::byte, 16>{}));
}

TEST_F(VirtioConsole, IsNotMadeWithoutAnOutput) {
  EXPECT_FALSE(ConsoleDevice::create(*loop_, nullptr));
}

}  // namespace
}  // namespace kiln::vmm
