// SPDX-License-Identifier: Apache-2.0
#include "shim/ttrpc/message_connection.h"

#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "base/unix_socket.h"
#include "tests/support/ttrpc_frames.h"

namespace kiln::ttrpc {
namespace {

class MessageConnectionTest : public testing::Test {
 protected:
  void SetUp() override {
    auto pair = *socket_pair(SOCK_STREAM);
    peer_ = std::move(pair.first);
    connection_ = *MessageConnection::create(
        *loop_, std::move(pair.second),
        [this](Message message) { messages_.push_back(std::move(message)); },
        [this](Error reason) {
          ++closed_;
          reason_ = std::move(reason);
        });
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::create();
  UniqueFd peer_;
  std::vector<Message> messages_;
  int closed_ = 0;
  std::optional<Error> reason_;
  std::unique_ptr<MessageConnection> connection_;
};

TEST_F(MessageConnectionTest, WritesLengthStreamTypeFlagsAndData) {
  connection_->send(0x01020305, MessageType::kData, kRemoteClosed | kNoData, "abc");
  EXPECT_EQ(take_bytes(*loop_, peer_, 13), std::string("\0\0\0\3\1\2\3\5\3\5abc", 13));
}

TEST_F(MessageConnectionTest, ReadsMessagesThatComeByteByByte) {
  const std::string bytes = frame(7, 1, 2, "hello") + frame(9, 3, 4, "");
  for (const char byte : bytes) {
    put(peer_, {&byte, 1});
    turn(*loop_, 1);
  }
  ASSERT_EQ(messages_.size(), 2U);
  EXPECT_EQ(messages_[0].stream, 7U);
  EXPECT_EQ(messages_[0].type, 1);
  EXPECT_EQ(messages_[0].flags, 2);
  EXPECT_EQ(messages_[0].data, "hello");
  EXPECT_EQ(messages_[1].stream, 9U);
  EXPECT_EQ(messages_[1].flags, 4);
  EXPECT_EQ(messages_[1].data, "");
}

TEST_F(MessageConnectionTest, ReadsMessagesCutAnywhere) {
  const std::string bytes = frame(1, 1, 0, "one") + frame(3, 3, 1, "") + frame(5, 2, 0, "three");
  for (size_t cut = 1; cut < bytes.size(); ++cut) {
    messages_.clear();
    put(peer_, std::string_view(bytes).substr(0, cut));
    turn(*loop_, 1);
    put(peer_, std::string_view(bytes).substr(cut));
    turn(*loop_, 1);
    ASSERT_EQ(messages_.size(), 3U) << cut;
    EXPECT_EQ(messages_[0].data, "one") << cut;
    EXPECT_EQ(messages_[1].stream, 3U) << cut;
    EXPECT_EQ(messages_[2].data, "three") << cut;
  }
}

TEST_F(MessageConnectionTest, TakesTheLongestMessage) {
  put_all(*loop_, peer_, frame(1, 1, 0, std::string(kMaxDataBytes, 'x')));
  ASSERT_TRUE(turn_until(*loop_, [this] { return !messages_.empty(); }));
  EXPECT_FALSE(messages_[0].too_long);
  EXPECT_EQ(messages_[0].data.size(), kMaxDataBytes);
}

TEST_F(MessageConnectionTest, SkipsALongerMessageAndGoesOn) {
  put_all(*loop_, peer_,
          frame(1, 1, 0, std::string(kMaxDataBytes + 1, 'x')) + frame(3, 1, 0, "next"));
  ASSERT_TRUE(turn_until(*loop_, [this] { return messages_.size() == 2; }));
  EXPECT_TRUE(messages_[0].too_long);
  EXPECT_EQ(messages_[0].stream, 1U);
  EXPECT_EQ(messages_[0].data, "");
  EXPECT_FALSE(messages_[1].too_long);
  EXPECT_EQ(messages_[1].data, "next");
}

TEST_F(MessageConnectionTest, AnEndBetweenMessagesIsUnavailable) {
  put(peer_, frame(1, 1, 0, "last"));
  peer_.reset();
  turn(*loop_);
  EXPECT_EQ(messages_.size(), 1U);
  ASSERT_EQ(closed_, 1);
  EXPECT_EQ(reason_->kind, ErrorKind::kUnavailable);
}

TEST_F(MessageConnectionTest, AnEndInsideAMessageIsDataLoss) {
  const std::string bytes = frame(1, 1, 0, "cut");
  for (const size_t size : {size_t{1}, kHeaderBytes, bytes.size() - 1}) {
    SetUp();
    put(peer_, bytes.substr(0, size));
    turn(*loop_);
    peer_.reset();
    turn(*loop_);
    EXPECT_TRUE(messages_.empty()) << size;
    ASSERT_TRUE(reason_) << size;
    EXPECT_EQ(reason_->kind, ErrorKind::kDataLoss) << size;
    reason_.reset();
  }
  EXPECT_EQ(closed_, 3);
}

TEST_F(MessageConnectionTest, WhatIsSentAfterTheEndIsDropped) {
  peer_.reset();
  turn(*loop_);
  connection_->send(1, MessageType::kResponse, 0, "nobody reads it");
  turn(*loop_);
  EXPECT_EQ(connection_->queued_bytes(), 0U);
  EXPECT_EQ(closed_, 1);
}

TEST_F(MessageConnectionTest, WhatAPeerSaidBeforeItLeftIsHeardThoughItReadsNothing) {
  connection_->send(1, MessageType::kResponse, 0, std::string(kMaxDataBytes, 'x'));
  put(peer_, frame(3, 1, 0, "goodbye"));
  peer_.reset();
  turn(*loop_);
  ASSERT_EQ(messages_.size(), 1U);
  EXPECT_EQ(messages_[0].data, "goodbye");
  EXPECT_EQ(closed_, 1);
}

TEST_F(MessageConnectionTest, APeerThatDoesNotReadIsNotReadUntilItDoes) {
  for (int i = 0; i < 3; ++i)
    connection_->send(1, MessageType::kResponse, 0, std::string(kMaxDataBytes, 'x'));
  const size_t queued = connection_->queued_bytes();
  put(peer_, frame(3, 1, 0, "waits"));
  turn(*loop_, 10);
  EXPECT_TRUE(messages_.empty());
  EXPECT_EQ(connection_->queued_bytes(), queued);
  const std::string all = take_bytes(*loop_, peer_, 3 * (kMaxDataBytes + kHeaderBytes));
  EXPECT_EQ(all.size(), 3 * (kMaxDataBytes + kHeaderBytes));
  turn(*loop_);
  ASSERT_EQ(messages_.size(), 1U);
  EXPECT_EQ(messages_[0].data, "waits");
  EXPECT_EQ(connection_->queued_bytes(), 0U);
}

TEST_F(MessageConnectionTest, APeerThatWaitsCostsNoTurns) {
  for (int i = 0; i < 3; ++i)
    connection_->send(1, MessageType::kResponse, 0, std::string(kMaxDataBytes, 'x'));
  put(peer_, frame(3, 1, 0, "waits"));
  turn(*loop_);
  int turns = 0;
  bool over = false;
  loop_->add_timer(50, [&over] { over = true; });
  for (; !over; ++turns) ASSERT_TRUE(loop_->run_once(-1));
  EXPECT_LT(turns, 5);
}

TEST_F(MessageConnectionTest, MayBeDestroyedByAMessage) {
  auto pair = *socket_pair(SOCK_STREAM);
  std::unique_ptr<MessageConnection> connection;
  int heard = 0;
  connection = *MessageConnection::create(
      *loop_, std::move(pair.second),
      [&connection, &heard](const Message&) {
        ++heard;
        connection.reset();
      },
      [](const Error&) { FAIL(); });
  put(pair.first, frame(1, 1, 0, "first") + frame(3, 1, 0, "second"));
  turn(*loop_);
  EXPECT_EQ(heard, 1);
}

TEST_F(MessageConnectionTest, MayBeDestroyedByItsEnd) {
  auto pair = *socket_pair(SOCK_STREAM);
  std::unique_ptr<MessageConnection> connection;
  connection = *MessageConnection::create(
      *loop_, std::move(pair.second), [](const Message&) {},
      [&connection](const Error&) { connection.reset(); });
  pair.first.reset();
  turn(*loop_);
  EXPECT_EQ(connection, nullptr);
}

}  // namespace
}  // namespace kiln::ttrpc
