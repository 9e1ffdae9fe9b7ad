// SPDX-License-Identifier: Apache-2.0
#include "base/frame_connection.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <optional>
#include <vector>

#include "base/unix_socket.h"

namespace kiln {
namespace {

class FrameConnectionTest : public testing::Test {
 protected:
  void SetUp() override {
    loop_ = *EventLoop::create();
    auto pair = *socket_pair(SOCK_STREAM);
    peer_ = std::move(pair.second);
    connection_ = *FrameConnection::create(
        *loop_, std::move(pair.first), 100,
        [this](std::string payload) { frames_.push_back(std::move(payload)); },
        [this](Error reason) { closed_ = std::move(reason); });
  }
  void send_raw(std::string_view bytes) {
    ASSERT_EQ(send(peer_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
  void turn(int rounds = 3) {
    for (int i = 0; i < rounds; ++i) ASSERT_TRUE(loop_->run_once(0));
  }

  std::unique_ptr<EventLoop> loop_;
  UniqueFd peer_;
  std::vector<std::string> frames_;
  std::optional<Error> closed_;
  std::unique_ptr<FrameConnection> connection_;
};

TEST_F(FrameConnectionTest, PutsTogetherFramesThatArriveInPieces) {
  const std::string bytes("\x03\0\0\0abc\0\0\0\0\x01\0\0\0d", 16);
  for (const char byte : bytes) {
    send_raw({&byte, 1});
    turn(1);
  }
  EXPECT_EQ(frames_, (std::vector<std::string>{"abc", "", "d"}));
  EXPECT_FALSE(closed_);
}

TEST_F(FrameConnectionTest, ClosesOnAFrameThatIsTooLong) {
  send_raw(std::string("\x65\0\0\0", 4));
  turn();
  ASSERT_TRUE(closed_);
  EXPECT_EQ(closed_->kind, ErrorKind::kOutOfRange);
}

TEST_F(FrameConnectionTest, TellsAnEndBetweenFramesFromOneInside) {
  send_raw(std::string("\x02\0\0\0a", 5));
  peer_.reset();
  turn();
  ASSERT_TRUE(closed_);
  EXPECT_EQ(closed_->kind, ErrorKind::kDataLoss);
}

TEST_F(FrameConnectionTest, HandsOverDescriptorsOnceItIsAskedTo) {
  UniqueFd sent(dup(STDIN_FILENO));
  const int number = sent.get();
  ASSERT_TRUE(send_frame(peer_.get(), "one", std::span(&number, 1)));
  turn();
  EXPECT_TRUE(connection_->take_fds().empty());
  connection_->accept_fds();
  ASSERT_TRUE(send_frame(peer_.get(), "two", std::span(&number, 1)));
  turn();
  EXPECT_EQ(frames_, (std::vector<std::string>{"one", "two"}));
  EXPECT_EQ(connection_->take_fds().size(), 1U);
  EXPECT_TRUE(connection_->take_fds().empty());
}

TEST_F(FrameConnectionTest, CutsOffAPeerThatSendsDescriptorsForNothing) {
  connection_->accept_fds();
  const int number = STDIN_FILENO;
  for (size_t i = 0; i <= FrameConnection::kMaxWaitingFds; ++i)
    ASSERT_TRUE(send_frame(peer_.get(), "more", std::span(&number, 1)));
  turn(static_cast<int>(FrameConnection::kMaxWaitingFds) + 3);
  ASSERT_TRUE(closed_);
  EXPECT_EQ(closed_->kind, ErrorKind::kOutOfRange);
}

TEST_F(FrameConnectionTest, MayBeDestroyedByItsOwnCallback) {
  auto pair = *socket_pair(SOCK_STREAM);
  int calls = 0;
  std::unique_ptr<FrameConnection> connection = *FrameConnection::create(
      *loop_, std::move(pair.first), 100,
      [&](const std::string&) {
        ++calls;
        connection.reset();
      },
      [](const Error&) {});
  ASSERT_EQ(send(pair.second.get(), "\x01\0\0\0a\x01\0\0\0b", 10, MSG_NOSIGNAL), 10);
  turn();
  EXPECT_EQ(calls, 1);
}

TEST_F(FrameConnectionTest, StopsReadingWhileThePeerDoesNot) {
  connection_->send(std::string(FrameConnection::kMaxQueuedBytes + (1U << 20), 'x'));
  turn();
  EXPECT_FALSE(connection_->sent_everything());
  send_raw(std::string("\x01\0\0\0a", 5));
  turn();
  EXPECT_TRUE(frames_.empty());

  std::string got;
  std::string buffer(1U << 16, '\0');
  while (!connection_->sent_everything() || frames_.empty()) {
    const ssize_t size = recv(peer_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (size > 0) got.append(buffer, 0, static_cast<size_t>(size));
    turn(1);
  }
  EXPECT_EQ(frames_, std::vector<std::string>{"a"});
  EXPECT_GE(got.size(), FrameConnection::kMaxQueuedBytes);
}

TEST_F(FrameConnectionTest, LetsThePeerReadTheEndAfterTheLastFrame) {
  connection_->send("bye");
  connection_->end_sending();
  EXPECT_EQ(*receive_frame(peer_.get(), 100), "bye");
  EXPECT_EQ(receive_frame(peer_.get(), 100).error().kind, ErrorKind::kUnavailable);
}

TEST_F(FrameConnectionTest, ReportsAPeerThatIsGoneThoughMuchIsQueued) {
  connection_->send(std::string(FrameConnection::kMaxQueuedBytes * 2, 'x'));
  peer_.reset();
  turn();
  EXPECT_TRUE(closed_);
}

}  // namespace
}  // namespace kiln
