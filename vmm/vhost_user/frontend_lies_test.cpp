// SPDX-License-Identifier: Apache-2.0
// The front-end against a back-end that does not keep to the protocol. What the back-end says is
// written before it is asked for it, so that no test waits, but for the one about waiting.
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <array>
#include <cstring>

#include "base/unix_socket.h"
#include "tests/support/fake_driver.h"
#include "vmm/vhost_user/forwarding.h"
#include "vmm/vhost_user/frontend.h"

namespace kiln::vmm {
namespace {

using vhost_user::Request;

constexpr uint64_t kVersion1 = uint64_t{1} << 32;
constexpr uint64_t kBackendFeatures = kVersion1 | vhost_user::kFeatureProtocolFeatures;
constexpr uint64_t kAcksOnly = vhost_user::kProtocolReplyAck;
constexpr uint32_t kReply = vhost_user::kVersion | vhost_user::kFlagReply;

class LyingBackEnd : public ::testing::Test {
 protected:
  void SetUp() override {
    auto [front, back] = std::move(*socket_pair(SOCK_STREAM));
    options_.socket = std::move(front);
    back_ = std::move(back);
    options_.type = DeviceType::kFs;
    options_.queue_sizes = {16};
    options_.config.resize(40);
    options_.patience_ms = 10'000;
  }
  void say_bytes(std::string_view bytes, std::vector<int> fds = {}) {
    ASSERT_TRUE(send_with_fds(back_.get(), bytes, fds));
  }
  template <typename T>
  void say(Request request, const T& payload, uint32_t flags = kReply, std::vector<int> fds = {}) {
    const vhost_user::Header header{static_cast<uint32_t>(request), flags, sizeof payload};
    std::string bytes(sizeof header + sizeof payload, '\0');
    std::memcpy(bytes.data(), &header, sizeof header);
    std::memcpy(bytes.data() + sizeof header, &payload, sizeof payload);
    say_bytes(bytes, std::move(fds));
  }
  void say_header(Request request, uint32_t size) {
    const vhost_user::Header header{static_cast<uint32_t>(request), kReply, size};
    say_bytes({reinterpret_cast<const char*>(&header), sizeof header});
  }
  void agree(uint64_t protocol = kAcksOnly) {
    say(Request::kGetFeatures, kBackendFeatures);
    say(Request::kGetProtocolFeatures, protocol);
    say(Request::kGetFeatures, kBackendFeatures);  // that the protocol features are set
  }
  void create() {
    auto made = VhostUserFrontend::create(
        *loop_, std::move(options_), [this](const Error& why) { lost_.push_back(why.message); });
    if (made)
      device_ = std::move(*made);
    else
      error_ = made.error().message;
  }
  void expect_refused(const std::string& text) {
    create();
    EXPECT_NE(error_.find(text), std::string::npos) << error_;
  }
  Activation activation() {
    Activation out;
    out.memory = guest_.memory();
    out.acked_features = kVersion1;
    out.interrupt_fd = interrupt_.get();
    out.broken = [this](unsigned, const Error&) { ++broken_; };
    out.remote_queues.push_back({true, driver_.config(), kick_.get()});
    return out;
  }
  void acknowledge_activation(uint64_t last = 0) {
    for (const Request request :
         {Request::kSetFeatures, Request::kSetMemTable, Request::kSetVringNum,
          Request::kSetVringBase, Request::kSetVringAddr, Request::kSetVringCall,
          Request::kSetVringErr, Request::kSetVringKick})
      say(request, uint64_t{0});
    say(Request::kSetVringEnable, last);
  }
  void expect_activation_fails(const std::string& text) {
    const auto done = device_->activate(activation());
    ASSERT_FALSE(done);
    EXPECT_NE(done.error().message.find(text), std::string::npos) << done.error().message;
  }
  void run() { ASSERT_TRUE(loop_->run_once(0) && loop_->run_once(0)); }
  static UniqueFd memory_file() {
    UniqueFd file(memfd_create("guest", MFD_CLOEXEC));
    if (ftruncate(file.get(), FakeGuest::kSize) != 0) abort();
    return file;
  }

  std::unique_ptr<EventLoop> loop_ = std::move(*EventLoop::create());
  FakeGuest guest_{memory_file()};
  FakeDriver driver_{guest_, 16};
  UniqueFd interrupt_{eventfd(0, EFD_CLOEXEC)};
  UniqueFd kick_{eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  VhostUserOptions options_;
  UniqueFd back_;
  std::unique_ptr<VhostUserFrontend> device_;
  std::string error_;
  std::vector<std::string> lost_;
  int broken_ = 0;
};

TEST_F(LyingBackEnd, ThatSaysNothingTimesOut) {
  options_.patience_ms = 20;
  expect_refused("did not answer within 20 ms");
}

TEST_F(LyingBackEnd, ThatClosesAtOnceIsAnError) {
  back_.reset();
  create();
  EXPECT_FALSE(error_.empty());
}

TEST_F(LyingBackEnd, ThatClosesInsideAnAnswerIsAnError) {
  say_header(Request::kGetFeatures, 8);
  say_bytes("abc");
  back_.reset();
  create();
  EXPECT_FALSE(error_.empty());
}

TEST_F(LyingBackEnd, ThatAnswersInSmallPartsIsUnderstood) {
  say_header(Request::kGetFeatures, 8);
  for (size_t i = 0; i < sizeof kVersion1; ++i)
    say_bytes({reinterpret_cast<const char*>(&kVersion1) + i, 1});
  create();
  EXPECT_EQ(error_, "");
}

TEST_F(LyingBackEnd, ThatAnswersSomethingElseIsRefused) {
  say(Request::kGetQueueNum, kBackendFeatures);
  expect_refused("answer to request 17");
}

TEST_F(LyingBackEnd, ThatAnswersWithARequestIsRefused) {
  say(Request::kGetFeatures, kBackendFeatures, vhost_user::kVersion);
  expect_refused("flags");
}

TEST_F(LyingBackEnd, ThatAnswersInAnotherVersionIsRefused) {
  say(Request::kGetFeatures, kBackendFeatures, 2 | vhost_user::kFlagReply);
  expect_refused("flags");
}

TEST_F(LyingBackEnd, ThatAnswersTooShortlyIsRefused) {
  say(Request::kGetFeatures, uint32_t{0});
  expect_refused("4 bytes instead of 8");
}

TEST_F(LyingBackEnd, ThatAnnouncesAHugeAnswerIsRefused) {
  say_header(Request::kGetFeatures, UINT32_MAX);
  expect_refused("4294967295 bytes");
}

TEST_F(LyingBackEnd, ThatSendsDescriptorsIsRefused) {
  say(Request::kGetFeatures, kBackendFeatures, kReply, {back_.get(), kick_.get()});
  expect_refused("2 descriptors");
}

TEST_F(LyingBackEnd, WithoutVirtio1IsRefused) {
  say(Request::kGetFeatures, uint64_t{3});
  expect_refused("virtio 1.0");
}

TEST_F(LyingBackEnd, ThatRefusesItsConfigurationIsRefused) {
  options_.type = DeviceType::kVsock;
  options_.config.clear();
  say(Request::kGetFeatures, kBackendFeatures);
  say(Request::kGetProtocolFeatures, vhost_user::kProtocolConfig);
  say_header(Request::kGetConfig, 0);
  expect_refused("refuses 8 bytes");
}

TEST_F(LyingBackEnd, ThatAnswersAnotherPartOfItsConfigurationIsRefused) {
  options_.type = DeviceType::kVsock;
  options_.config.clear();
  say(Request::kGetFeatures, kBackendFeatures);
  say(Request::kGetProtocolFeatures, vhost_user::kProtocolConfig);
  struct {
    vhost_user::ConfigHead head{0, 200, 0};
    uint64_t cid = 3;
  } answer;
  std::array<std::byte, 20> packed{};
  std::memcpy(packed.data(), &answer.head, sizeof answer.head);
  say(Request::kGetConfig, packed);
  expect_refused("says 200 bytes");
}

TEST_F(LyingBackEnd, WithoutAConfigurationThatTheDeviceNeedsIsRefused) {
  options_.type = DeviceType::kBlock;
  options_.config.clear();
  agree();
  expect_refused("no configuration");
}

TEST_F(LyingBackEnd, ThatSpeaksUnaskedIsLost) {
  agree();
  create();
  ASSERT_NE(device_, nullptr);
  say(Request::kGetFeatures, kBackendFeatures);
  run();
  ASSERT_EQ(lost_.size(), 1U);
  EXPECT_NE(lost_[0].find("unasked"), std::string::npos) << lost_[0];
  expect_activation_fails("unasked");
}

TEST_F(LyingBackEnd, ThatRefusesARingFailsTheActivation) {
  agree();
  create();
  ASSERT_NE(device_, nullptr) << error_;
  acknowledge_activation(1);
  say(Request::kGetVringBase, vhost_user::VringState{0, 0});
  expect_activation_fails("SET_VRING_ENABLE: the back-end refuses");
  run();
  EXPECT_TRUE(lost_.empty());
}

TEST_F(LyingBackEnd, ThatClosesDuringTheActivationIsLost) {
  agree();
  create();
  ASSERT_NE(device_, nullptr) << error_;
  say(Request::kSetFeatures, uint64_t{0});
  shutdown(back_.get(), SHUT_WR);
  expect_activation_fails("closed");
  run();
  EXPECT_EQ(lost_.size(), 1U);
}

TEST_F(LyingBackEnd, ThatStoppedAtAnotherRingIsLost) {
  agree();
  create();
  ASSERT_NE(device_, nullptr) << error_;
  acknowledge_activation();
  ASSERT_TRUE(device_->activate(activation()));
  say(Request::kGetVringBase, vhost_user::VringState{1, 0});
  device_->suspend();
  run();
  EXPECT_EQ(lost_.size(), 1U);
}

TEST_F(LyingBackEnd, ThatStoppedPastEveryIndexIsLost) {
  agree();
  create();
  ASSERT_NE(device_, nullptr) << error_;
  acknowledge_activation();
  ASSERT_TRUE(device_->activate(activation()));
  say(Request::kGetVringBase, vhost_user::VringState{0, 65536});
  device_->reset();
  run();
  EXPECT_EQ(lost_.size(), 1U);
}

// The eventfd that our kick would be one too many for.
TEST_F(LyingBackEnd, ThatFillsTheKickDescriptorBlocksNobody) {
  kick_ = UniqueFd(eventfd(0, EFD_CLOEXEC));
  eventfd_write(kick_.get(), UINT64_MAX - 1);
  agree();
  create();
  ASSERT_NE(device_, nullptr) << error_;
  acknowledge_activation();
  EXPECT_TRUE(device_->activate(activation()));
}

TEST_F(LyingBackEnd, WithoutARingFeatureIsNotGivenSuchARing) {
  agree();
  create();
  ASSERT_NE(device_, nullptr) << error_;
  EXPECT_EQ(device_->ring_features() & (uint64_t{1} << 29), 0U);
  Activation given = activation();
  given.acked_features |= uint64_t{1} << 29;
  EXPECT_FALSE(device_->activate(given));
}

TEST(VhostUserForwarding, HidesWhatBelongsToTheTransport) {
  EXPECT_EQ(forwarded_features(DeviceType::kVsock, ~uint64_t{0}, 3, true), 0xfffc'0000'00ff'ffffU);
}

TEST(VhostUserForwarding, HidesTheControlQueueWhereThereIsNone) {
  const uint64_t ctrl_vq = uint64_t{1} << 17;
  EXPECT_EQ(forwarded_features(DeviceType::kNet, ctrl_vq, 2, true), 0U);
  EXPECT_EQ(forwarded_features(DeviceType::kNet, ctrl_vq, 3, true), ctrl_vq);
}

TEST(VhostUserForwarding, HidesWhatTheConfigurationWouldSay) {
  const uint64_t mac = uint64_t{1} << 5;
  EXPECT_EQ(forwarded_features(DeviceType::kNet, mac, 2, false), 0U);
  EXPECT_EQ(forwarded_features(DeviceType::kNet, mac, 2, true), mac);
}

TEST(VhostUserForwarding, BoundsTheNumberOfBlockQueues) {
  const uint64_t mq = uint64_t{1} << 12;
  std::vector<std::byte> config(60);
  config[34] = std::byte{200};
  bound_queue_numbers(DeviceType::kBlock, mq, 4, config);
  EXPECT_EQ(config[34], std::byte{4});
}

}  // namespace
}  // namespace kiln::vmm
