// SPDX-License-Identifier: Apache-2.0
#include "base/socket_bridge.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <string>

#include "base/unix_socket.h"

namespace kiln {
namespace {

class SocketBridgeTest : public testing::Test {
 protected:
  void SetUp() override { loop_ = std::move(*EventLoop::create()); }

  void join(int64_t idle_ms) {
    auto [left, left_inner] = *socket_pair(SOCK_STREAM);
    auto [right, right_inner] = *socket_pair(SOCK_STREAM);
    left_ = std::move(left);
    right_ = std::move(right);
    bridge_ = std::move(*SocketBridge::create(*loop_, std::move(left_inner), std::move(right_inner),
                                              idle_ms, [this] {
                                                ended_ = true;
                                                bridge_.reset();
                                              }));
  }
  void turn() { ASSERT_TRUE(loop_->run_once(100)); }
  static void put(const UniqueFd& fd, std::string_view text) {
    ASSERT_EQ(send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }
  // Turns the loop until something is there; empty: the end, or nothing within ten seconds.
  std::string take(const UniqueFd& fd) {
    std::array<char, 256> buffer{};
    for (int i = 0; i < 100; ++i) {
      const ssize_t got = recv(fd.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
      if (got >= 0) return {buffer.data(), static_cast<size_t>(got)};
      static_cast<void>(loop_->run_once(100));
    }
    ADD_FAILURE() << "neither bytes nor an end";
    return {};
  }

  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<SocketBridge> bridge_;
  UniqueFd left_;
  UniqueFd right_;
  bool ended_ = false;
};

TEST_F(SocketBridgeTest, CarriesBothWaysAndAnAnswerAfterAHalfClose) {
  join(60'000);
  put(left_, "question");
  EXPECT_EQ(take(right_), "question");
  shutdown(left_.get(), SHUT_WR);
  EXPECT_EQ(take(right_), "");
  put(right_, "answer");
  EXPECT_EQ(take(left_), "answer");
  EXPECT_FALSE(ended_);
  right_.reset();
  EXPECT_EQ(take(left_), "");
  EXPECT_TRUE(ended_);
}

TEST_F(SocketBridgeTest, EndsWhenBothPeersHaveGone) {
  join(60'000);
  left_.reset();
  right_.reset();
  for (int i = 0; i < 100 && !ended_; ++i) turn();
  EXPECT_TRUE(ended_);
}

TEST_F(SocketBridgeTest, EndsWhenNothingMoves) {
  join(50);
  EXPECT_EQ(take(left_), "");
  EXPECT_TRUE(ended_);
}

TEST_F(SocketBridgeTest, LastsWhileSomethingMoves) {
  join(200);
  for (int i = 0; i < 10; ++i) {
    usleep(50'000);
    put(left_, "x");
    ASSERT_EQ(take(right_), "x");
  }
  EXPECT_FALSE(ended_);
}

TEST_F(SocketBridgeTest, LastsForEverIfItIsTo) {
  join(SocketBridge::kNeverIdle);
  for (int i = 0; i < 3; ++i) turn();
  EXPECT_FALSE(ended_);
  EXPECT_FALSE(bridge_->one_has_ended());
  shutdown(left_.get(), SHUT_WR);
  EXPECT_EQ(take(right_), "");
  EXPECT_TRUE(bridge_->one_has_ended());
}

}  // namespace
}  // namespace kiln
