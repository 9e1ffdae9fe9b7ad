// SPDX-License-Identifier: Apache-2.0
// Named after what virtio 1.2 §4.2 and §3.1 ask of a device behind MMIO.
#include "vmm/virtio/mmio_transport.h"

#include <gtest/gtest.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <poll.h>

#include <cstring>
#include <thread>

#include "tests/support/fake_driver.h"

namespace kiln::vmm {
namespace {

constexpr uint64_t kFeature = uint64_t{1} << 3;
constexpr uint16_t kQueueSize = 16;
constexpr uint32_t kReadyToRun = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
                                 VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;

// Gives every buffer back, with its size.
class EchoDevice : public VirtioDevice {
 public:
  DeviceType type() const override { return DeviceType::kEntropy; }
  uint64_t features() const override { return kFeature; }
  std::span<const uint16_t> queue_sizes() const override { return sizes_; }
  void read_config(uint32_t offset, std::span<std::byte> out) const override {
    for (size_t i = 0; i < out.size(); ++i)
      out[i] = offset + i < 8 ? std::byte(0x10 + offset + i) : std::byte{0};
  }
  void write_config(uint32_t offset, std::span<const std::byte> bytes) override {
    written_offset = offset;
    written_size = bytes.size();
  }
  Result<void> activate(Activation activation) override {
    activation_ = std::move(activation);
    ++activations;
    return {};
  }
  Result<void> process_queue(unsigned index) override {
    Queue& queue = *activation_.queues[index];
    DescriptorChain chain;
    while (TRY(queue.pop(chain))) TRY(queue.push_used(chain.head, chain.writable_size));
    if (queue.needs_interrupt()) activation_.interrupt(index);
    return {};
  }
  void reset() override {
    activation_ = {};
    ++resets;
  }
  void change_config() const { activation_.config_changed(); }

  int activations = 0;
  int resets = 0;
  uint32_t written_offset = 0;
  size_t written_size = 0;
  uint64_t acked() const { return activation_.acked_features; }

 private:
  const std::array<uint16_t, 2> sizes_{kQueueSize, kQueueSize};
  Activation activation_;
};

class MmioTransportTest : public ::testing::Test {
 protected:
  void SetUp() override {
    loop_ = *EventLoop::create();
    tasks_ = *TaskQueue::create(*loop_);
    thread_ = std::thread([this] { ASSERT_TRUE(loop_->run()); });
    slot_ = *MmioTransport::create(*loop_, *tasks_, guest_.memory());
    ASSERT_TRUE(slot_->attach(device_));
  }
  void TearDown() override {
    slot_.reset();
    tasks_->post([this] { loop_->stop(); });
    thread_.join();
  }
  uint32_t get(uint64_t offset) {
    uint32_t value = 0;
    slot_->read(offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  void set(uint64_t offset, uint32_t value) {
    slot_->write(offset, std::as_bytes(std::span(&value, 1)));
  }
  void acknowledge(uint64_t features) {
    set(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
    set(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
    set(VIRTIO_MMIO_DRIVER_FEATURES, static_cast<uint32_t>(features));
    set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    set(VIRTIO_MMIO_DRIVER_FEATURES, static_cast<uint32_t>(features >> 32));
    set(VIRTIO_MMIO_STATUS,
        VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK);
  }
  void set_up_queue(unsigned index, const QueueConfig& config) {
    set(VIRTIO_MMIO_QUEUE_SEL, index);
    set(VIRTIO_MMIO_QUEUE_NUM, config.size);
    set(VIRTIO_MMIO_QUEUE_DESC_LOW, static_cast<uint32_t>(config.descriptor_table));
    set(VIRTIO_MMIO_QUEUE_DESC_HIGH, static_cast<uint32_t>(config.descriptor_table >> 32));
    set(VIRTIO_MMIO_QUEUE_AVAIL_LOW, static_cast<uint32_t>(config.available_ring));
    set(VIRTIO_MMIO_QUEUE_USED_LOW, static_cast<uint32_t>(config.used_ring));
    set(VIRTIO_MMIO_QUEUE_READY, 1);
  }
  void run_device() {
    acknowledge(kVersion1 | kFeature);
    set_up_queue(0, driver_.config());
    set(VIRTIO_MMIO_STATUS, kReadyToRun);
  }
  // As an ioeventfd would, then waits until the device thread has seen it.
  void kick(unsigned index) {
    const uint64_t one = 1;
    ASSERT_EQ(write(slot_->kick_fd(index), &one, sizeof one), static_cast<ssize_t>(sizeof one));
    const uint64_t before = slot_->kicks(index);
    for (int i = 0; i < 5000 && slot_->kicks(index) == before; ++i) {
      tasks_->call([] {});
      std::this_thread::yield();
    }
    tasks_->call([] {});
  }
  bool interrupted() {
    uint64_t count = 0;
    return read(slot_->interrupt_fd(), &count, sizeof count) == static_cast<ssize_t>(sizeof count);
  }

  static constexpr uint64_t kVersion1 = uint64_t{1} << VIRTIO_F_VERSION_1;
  FakeGuest guest_;
  FakeDriver driver_{guest_, kQueueSize};
  EchoDevice device_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<TaskQueue> tasks_;
  std::thread thread_;
  std::unique_ptr<MmioTransport> slot_;
};

TEST_F(MmioTransportTest, IntroducesItself) {
  EXPECT_EQ(get(VIRTIO_MMIO_MAGIC_VALUE), 0x74726976U);
  EXPECT_EQ(get(VIRTIO_MMIO_VERSION), 2U);
  EXPECT_EQ(get(VIRTIO_MMIO_DEVICE_ID), 4U);
  set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
  EXPECT_EQ(get(VIRTIO_MMIO_DEVICE_FEATURES), 1U);  // VERSION_1
  set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
  EXPECT_EQ(get(VIRTIO_MMIO_DEVICE_FEATURES), 0U);
}

TEST_F(MmioTransportTest, ServesADriverThatDoesEverythingRight) {
  run_device();
  EXPECT_EQ(get(VIRTIO_MMIO_STATUS), kReadyToRun);
  EXPECT_EQ(device_.acked(), kVersion1 | kFeature);
  const uint64_t buffer = guest_.allocate(64);
  driver_.add_chain({{buffer, 64, true}});
  kick(0);
  const auto used = driver_.next_used();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->len, 64U);
  EXPECT_TRUE(interrupted());
  EXPECT_EQ(get(VIRTIO_MMIO_INTERRUPT_STATUS), uint32_t{VIRTIO_MMIO_INT_VRING});
  set(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
  EXPECT_EQ(get(VIRTIO_MMIO_INTERRUPT_STATUS), 0U);
}

TEST_F(MmioTransportTest, RefusesFeaturesThatWereNotOffered) {
  acknowledge(kVersion1 | kFeature << 1);
  EXPECT_EQ(get(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK, 0U);
}

TEST_F(MmioTransportTest, RefusesALegacyDriver) {
  acknowledge(kFeature);
  EXPECT_EQ(get(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK, 0U);
}

TEST_F(MmioTransportTest, SettlesFeaturesWithFeaturesOk) {
  acknowledge(kVersion1);
  set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
  set(VIRTIO_MMIO_DRIVER_FEATURES, kFeature);
  set_up_queue(0, driver_.config());
  set(VIRTIO_MMIO_STATUS, kReadyToRun);
  EXPECT_EQ(device_.acked(), kVersion1);
}

TEST_F(MmioTransportTest, DoesNotRunWithoutFeaturesOk) {
  set(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
  set(VIRTIO_MMIO_STATUS, kReadyToRun & ~uint32_t{VIRTIO_CONFIG_S_FEATURES_OK});
  EXPECT_EQ(device_.activations, 0);
  EXPECT_EQ(get(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_DRIVER_OK, 0U);
}

TEST_F(MmioTransportTest, KeepsStatusBitsThatTheDriverTakesAway) {
  run_device();
  set(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
  EXPECT_EQ(get(VIRTIO_MMIO_STATUS), kReadyToRun);
  EXPECT_EQ(device_.activations, 1);
}

TEST_F(MmioTransportTest, FreezesQueuesAtDriverOk) {
  run_device();
  set(VIRTIO_MMIO_QUEUE_SEL, 0);
  set(VIRTIO_MMIO_QUEUE_READY, 0);
  EXPECT_EQ(get(VIRTIO_MMIO_QUEUE_READY), 1U);
  set(VIRTIO_MMIO_QUEUE_DESC_LOW, 0);
  const uint64_t buffer = guest_.allocate(8);
  driver_.add_chain({{buffer, 8, true}});
  kick(0);
  EXPECT_TRUE(driver_.next_used());
}

TEST_F(MmioTransportTest, NeedsAResetAfterAQueueOutsideOfMemory) {
  acknowledge(kVersion1);
  QueueConfig config = driver_.config();
  config.descriptor_table = uint64_t{1} << 40;
  set_up_queue(0, config);
  set(VIRTIO_MMIO_STATUS, kReadyToRun);
  EXPECT_NE(get(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET, 0U);
  EXPECT_NE(get(VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG, 0U);
  EXPECT_EQ(device_.activations, 0);
}

TEST_F(MmioTransportTest, NeedsAResetAfterAQueueThatIsTooLarge) {
  acknowledge(kVersion1);
  QueueConfig config = driver_.config();
  config.size = kQueueSize * 2;
  set_up_queue(0, config);
  set(VIRTIO_MMIO_STATUS, kReadyToRun);
  EXPECT_NE(get(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET, 0U);
}

TEST_F(MmioTransportTest, NeedsAResetAfterABrokenRingAndWorksAfterIt) {
  run_device();
  driver_.set_available_index(kQueueSize + 1);
  kick(0);
  EXPECT_NE(get(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET, 0U);
  EXPECT_TRUE(interrupted());
  set(VIRTIO_MMIO_STATUS, 0);
  EXPECT_EQ(get(VIRTIO_MMIO_STATUS), 0U);
  EXPECT_EQ(device_.resets, 1);
  FakeDriver again(guest_, kQueueSize);
  acknowledge(kVersion1);
  set_up_queue(0, again.config());
  set(VIRTIO_MMIO_STATUS, kReadyToRun);
  again.add_chain({{guest_.allocate(8), 8, true}});
  kick(0);
  EXPECT_TRUE(again.next_used());
}

TEST_F(MmioTransportTest, HasNoQueueBehindItsLast) {
  set(VIRTIO_MMIO_QUEUE_SEL, 2);
  EXPECT_EQ(get(VIRTIO_MMIO_QUEUE_NUM_MAX), 0U);
  set(VIRTIO_MMIO_QUEUE_SEL, UINT32_MAX);
  EXPECT_EQ(get(VIRTIO_MMIO_QUEUE_NUM_MAX), 0U);
  set(VIRTIO_MMIO_QUEUE_SEL, 1);
  EXPECT_EQ(get(VIRTIO_MMIO_QUEUE_NUM_MAX), uint32_t{kQueueSize});
}

TEST_F(MmioTransportTest, PassesConfigurationAccessesOfAnyWidth) {
  uint16_t half = 0;
  slot_->read(VIRTIO_MMIO_CONFIG + 2, std::as_writable_bytes(std::span(&half, 1)));
  EXPECT_EQ(half, 0x1312);
  const uint64_t value = 0;
  slot_->write(VIRTIO_MMIO_CONFIG + 8, std::as_bytes(std::span(&value, 1)));
  EXPECT_EQ(device_.written_offset, 8U);
  EXPECT_EQ(device_.written_size, 8U);
}

TEST_F(MmioTransportTest, AnswersOddRegisterAccessesWithZero) {
  uint8_t byte = 0xff;
  slot_->read(VIRTIO_MMIO_MAGIC_VALUE, std::as_writable_bytes(std::span(&byte, 1)));
  EXPECT_EQ(byte, 0);
  EXPECT_EQ(get(VIRTIO_MMIO_MAGIC_VALUE + 2), 0U);
  slot_->write(VIRTIO_MMIO_STATUS, std::as_bytes(std::span(&byte, 1)));
  EXPECT_EQ(get(VIRTIO_MMIO_STATUS), 0U);
}

TEST_F(MmioTransportTest, SaysThatSharedMemoryRegionsDoNotExist) {
  EXPECT_EQ(get(VIRTIO_MMIO_SHM_LEN_LOW), UINT32_MAX);
  EXPECT_EQ(get(VIRTIO_MMIO_SHM_LEN_HIGH), UINT32_MAX);
}

TEST_F(MmioTransportTest, TellsTheDriverOfAChangedConfiguration) {
  run_device();
  const uint32_t generation = get(VIRTIO_MMIO_CONFIG_GENERATION);
  device_.change_config();
  EXPECT_NE(get(VIRTIO_MMIO_CONFIG_GENERATION), generation);
  EXPECT_EQ(get(VIRTIO_MMIO_INTERRUPT_STATUS), uint32_t{VIRTIO_MMIO_INT_CONFIG});
}

TEST_F(MmioTransportTest, IsAPlaceholderWithoutADevice) {
  run_device();
  slot_->detach();
  EXPECT_EQ(device_.resets, 1);
  EXPECT_EQ(get(VIRTIO_MMIO_MAGIC_VALUE), 0x74726976U);
  EXPECT_EQ(get(VIRTIO_MMIO_DEVICE_ID), 0U);
  EXPECT_EQ(get(VIRTIO_MMIO_STATUS), 0U);
  set(VIRTIO_MMIO_STATUS, kReadyToRun);
  EXPECT_EQ(get(VIRTIO_MMIO_STATUS), 0U);
  EchoDevice next;
  ASSERT_TRUE(slot_->attach(next));
  EXPECT_EQ(get(VIRTIO_MMIO_DEVICE_ID), 4U);
  slot_->detach();
}

TEST_F(MmioTransportTest, TakesOneDeviceAtATime) {
  EchoDevice other;
  const auto taken = slot_->attach(other);
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().kind, ErrorKind::kAlreadyExists);
}

}  // namespace
}  // namespace kiln::vmm
