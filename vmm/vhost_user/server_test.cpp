// SPDX-License-Identifier: Apache-2.0
#include "vmm/vhost_user/server.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <cstring>
#include <optional>

#include "base/unix_socket.h"
#include "tests/support/fake_driver.h"

namespace kiln::vmm {
namespace {

using vhost_user::Request;

// Answers every chain with its own bytes.
class EchoDevice : public VirtioDevice {
 public:
  DeviceType type() const override { return DeviceType::kEntropy; }
  uint64_t features() const override { return 1; }
  std::span<const uint16_t> queue_sizes() const override { return sizes_; }
  void read_config(uint32_t offset, std::span<std::byte> out) const override {
    for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::byte>(offset + i);
  }
  Result<void> activate(Activation activation) override {
    activation_ = std::move(activation);
    ++activations;
    return {};
  }
  Result<void> process_queue(unsigned index) override {
    Queue* queue = activation_.queues[index];
    while (auto chain = TRY(queue->pop())) {
      ++served;
      TRY(queue->push_used(chain->head, 0));
    }
    activation_.interrupt(index);
    return {};
  }
  void reset() override { ++resets; }
  void suspend() override { ++suspensions; }

  int activations = 0;
  int served = 0;
  int resets = 0;
  int suspensions = 0;

 private:
  const std::vector<uint16_t> sizes_ = {16};
  Activation activation_;
};

class VhostUserTest : public ::testing::Test {
 protected:
  void SetUp() override {
    loop_ = std::move(*EventLoop::create());
    auto [here, there] = std::move(*socket_pair(SOCK_STREAM));
    front_ = std::move(here);
    server_ = std::move(*VhostUserServer::create(*loop_, std::move(there), device_,
                                                 [this](Result<void> why) { end_ = why; }));
    const UniqueFd file(memfd_create("guest", MFD_CLOEXEC));
    ASSERT_EQ(ftruncate(file.get(), kMemory), 0);
    memory_ = UniqueFd(dup(file.get()));
  }
  void run() {
    for (int i = 0; i < 10; ++i) ASSERT_TRUE(loop_->run_once(0));
  }
  void send(Request request, std::string_view payload, std::vector<int> fds = {},
            uint32_t flags = vhost_user::kVersion) {
    const vhost_user::Header header{static_cast<uint32_t>(request), flags,
                                    static_cast<uint32_t>(payload.size())};
    std::string message(reinterpret_cast<const char*>(&header), sizeof header);
    message += payload;
    ASSERT_TRUE(send_with_fds(front_.get(), message, fds));
    run();
  }
  template <typename T>
  void send_object(Request request, const T& value, std::vector<int> fds = {}) {
    send(request, {reinterpret_cast<const char*>(&value), sizeof value}, std::move(fds));
  }
  template <typename T>
  std::optional<T> answer() {
    vhost_user::Header header;
    T value{};
    std::string bytes(sizeof header + sizeof value, '\0');
    if (recv(front_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT) !=
        static_cast<ssize_t>(bytes.size()))
      return std::nullopt;
    std::memcpy(&header, bytes.data(), sizeof header);
    EXPECT_EQ(header.flags, vhost_user::kVersion | vhost_user::kFlagReply);
    std::memcpy(&value, bytes.data() + sizeof header, sizeof value);
    return value;
  }
  void send_memory(uint64_t size = kMemory) {
    const vhost_user::MemoryTableHead head{1, 0};
    const vhost_user::MemoryRegion region{0, size, kUser, 0};
    std::string payload(reinterpret_cast<const char*>(&head), sizeof head);
    payload.append(reinterpret_cast<const char*>(&region), sizeof region);
    send(Request::kSetMemTable, payload, {memory_.get()});
  }
  // A ring of 16 at the beginning of memory, as a front-end sets it up.
  void start_ring() {
    send_object(Request::kSetFeatures, uint64_t{1} << 32);
    send_memory();
    send_object(Request::kSetVringNum, vhost_user::VringState{0, 16});
    send_object(Request::kSetVringBase, vhost_user::VringState{0, 0});
    send_object(Request::kSetVringAddr,
                vhost_user::VringAddresses{0, 0, kUser, kUser + 8192, kUser + 4096, 0});
    send_object(Request::kSetVringCall, uint64_t{0}, {call_.get()});
    send_object(Request::kSetVringKick, uint64_t{0}, {kick_.get()});
  }
  void expect_end_with(const std::string& text) {
    ASSERT_TRUE(end_);
    ASSERT_FALSE(*end_);
    EXPECT_NE(end_->error().message.find(text), std::string::npos) << end_->error().message;
    EXPECT_GE(device_.resets, 1);
  }

  static constexpr uint64_t kMemory = 1 << 20;
  static constexpr uint64_t kUser = 0x7f0000000000;
  std::unique_ptr<EventLoop> loop_;
  EchoDevice device_;
  UniqueFd front_;
  std::unique_ptr<VhostUserServer> server_;
  std::optional<Result<void>> end_;
  UniqueFd memory_;
  UniqueFd kick_{eventfd(0, EFD_CLOEXEC)};
  UniqueFd call_{eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
};

TEST_F(VhostUserTest, OffersItsFeatures) {
  send(Request::kGetFeatures, {});
  const auto features = answer<uint64_t>();
  ASSERT_TRUE(features);
  EXPECT_NE(*features & 1, 0U);
  EXPECT_NE(*features & (uint64_t{1} << 32), 0U);  // VIRTIO_F_VERSION_1
  EXPECT_NE(*features & vhost_user::kFeatureProtocolFeatures, 0U);
  send(Request::kGetQueueNum, {});
  EXPECT_EQ(answer<uint64_t>(), 1U);
}

TEST_F(VhostUserTest, ServesARing) {
  start_ring();
  EXPECT_EQ(device_.activations, 1);
  auto* memory = static_cast<std::byte*>(
      mmap(nullptr, kMemory, PROT_READ | PROT_WRITE, MAP_SHARED, memory_.get(), 0));
  ASSERT_NE(memory, MAP_FAILED);
  const vring_desc descriptor{65536, 16, 0, 0};
  std::memcpy(memory, &descriptor, sizeof descriptor);
  const uint16_t one = 1;
  std::memcpy(memory + 4096 + 2, &one, sizeof one);
  eventfd_write(kick_.get(), 1);
  run();
  EXPECT_EQ(device_.served, 1);
  eventfd_t signalled = 0;
  EXPECT_EQ(eventfd_read(call_.get(), &signalled), 0);
  send_object(Request::kGetVringBase, vhost_user::VringState{0, 0});
  const auto state = answer<vhost_user::VringState>();
  ASSERT_TRUE(state);
  EXPECT_EQ(state->num, 1U);
  EXPECT_EQ(device_.suspensions, 1);
  munmap(memory, kMemory);
}

TEST_F(VhostUserTest, ResetsTheDeviceWhenAsked) {
  start_ring();
  send(Request::kResetDevice, {});
  EXPECT_EQ(device_.resets, 1);
  EXPECT_FALSE(end_);
  start_ring();
  EXPECT_EQ(device_.activations, 2);
  EXPECT_EQ(device_.resets, 1);
}

// As a front-end does that has no RESET_DEVICE, for a driver that starts anew.
TEST_F(VhostUserTest, TakesARingThatStartsElsewhereForAReset) {
  start_ring();
  send_object(Request::kGetVringBase, vhost_user::VringState{0, 0});
  send_object(Request::kSetVringBase, vhost_user::VringState{0, 5});
  send_object(Request::kSetVringKick, uint64_t{0}, {kick_.get()});
  EXPECT_EQ(device_.resets, 1);
}

TEST_F(VhostUserTest, GoesOnWhereARingHasStopped) {
  start_ring();
  send_object(Request::kGetVringBase, vhost_user::VringState{0, 0});
  send_object(Request::kSetVringBase, vhost_user::VringState{0, 0});
  send_object(Request::kSetVringKick, uint64_t{0}, {kick_.get()});
  EXPECT_EQ(device_.activations, 2);
  EXPECT_EQ(device_.resets, 0);
}

TEST_F(VhostUserTest, AnswersConfigurationReads) {
  struct {
    vhost_user::ConfigHead head{4, 8, 0};
    unsigned char bytes[8]{};
  } request;
  send_object(Request::kGetConfig, request);
  const auto reply = answer<decltype(request)>();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->bytes[0], 4);
  EXPECT_EQ(reply->bytes[7], 11);
}

TEST_F(VhostUserTest, EndsWellWhenTheFrontEndCloses) {
  front_.reset();
  run();
  ASSERT_TRUE(end_);
  EXPECT_TRUE(*end_);
}

TEST_F(VhostUserTest, EndsInsideAMessage) {
  ASSERT_TRUE(send_with_fds(front_.get(), "abc", {}));
  front_.reset();
  run();
  expect_end_with("closed");
}

TEST_F(VhostUserTest, RefusesUnknownRequests) {
  send(static_cast<Request>(4711), {});
  expect_end_with("unknown request 4711");
}

TEST_F(VhostUserTest, RefusesOversizedPayloads) {
  const vhost_user::Header header{1, vhost_user::kVersion, 1 << 30};
  ASSERT_TRUE(
      send_with_fds(front_.get(), {reinterpret_cast<const char*>(&header), sizeof header}, {}));
  run();
  expect_end_with("bytes");
}

TEST_F(VhostUserTest, RefusesAnotherVersion) {
  send(Request::kGetFeatures, {}, {}, 2);
  expect_end_with("flags");
}

TEST_F(VhostUserTest, RefusesFeaturesThatWereNotOffered) {
  send_object(Request::kSetFeatures, uint64_t{1} << 60);
  expect_end_with("not offered");
}

TEST_F(VhostUserTest, RefusesMemoryThatTheFileDoesNotHave) {
  send_memory(kMemory * 2);
  expect_end_with("SET_MEM_TABLE");
}

TEST_F(VhostUserTest, RefusesRegionsWithoutDescriptors) {
  const vhost_user::MemoryTableHead head{1, 0};
  const vhost_user::MemoryRegion region{0, kMemory, kUser, 0};
  std::string payload(reinterpret_cast<const char*>(&head), sizeof head);
  payload.append(reinterpret_cast<const char*>(&region), sizeof region);
  send(Request::kSetMemTable, payload);
  expect_end_with("descriptors");
}

TEST_F(VhostUserTest, RefusesRingsThatItDoesNotHave) {
  send_object(Request::kSetVringNum, vhost_user::VringState{1, 16});
  expect_end_with("ring 1 of 1");
}

TEST_F(VhostUserTest, RefusesRingsOutsideOfMemory) {
  send_object(Request::kSetFeatures, uint64_t{1} << 32);
  send_memory();
  send_object(Request::kSetVringNum, vhost_user::VringState{0, 16});
  send_object(Request::kSetVringAddr,
              vhost_user::VringAddresses{0, 0, kUser + kMemory, kUser, kUser, 0});
  send_object(Request::kSetVringKick, uint64_t{0}, {kick_.get()});
  ASSERT_TRUE(end_);
  EXPECT_FALSE(*end_);
}

TEST_F(VhostUserTest, RefusesTooManyDescriptors) {
  send_object(Request::kSetVringKick, uint64_t{0}, {kick_.get(), call_.get()});
  expect_end_with("descriptors");
}

TEST_F(VhostUserTest, ReportsRefusalsToWhoAsksForThem) {
  send_object(Request::kSetProtocolFeatures, vhost_user::kProtocolReplyAck);
  const vhost_user::VringState state{5, 16};
  send(Request::kSetVringNum, {reinterpret_cast<const char*>(&state), sizeof state}, {},
       vhost_user::kVersion | vhost_user::kFlagNeedReply);
  EXPECT_EQ(answer<uint64_t>(), 1U);
  EXPECT_FALSE(end_);
}

}  // namespace
}  // namespace kiln::vmm
