// SPDX-License-Identifier: Apache-2.0
// Streaming calls: a server's end against a client's bytes.
#include <gtest/gtest.h>

#include <vector>

#include "base/unix_socket.h"
#include "shim/ttrpc/server.h"
#include "tests/support/ttrpc_frames.h"

namespace kiln::ttrpc {
namespace {

constexpr uint8_t kDataType = static_cast<uint8_t>(MessageType::kData);
constexpr int kInvalidArgument = static_cast<int>(ErrorKind::kInvalidArgument);
constexpr int kResourceExhausted = static_cast<int>(ErrorKind::kResourceExhausted);

// Open keeps its stream and receives; Keep only keeps it; Drop does not.
class TtrpcStreamTest : public testing::Test {
 protected:
  using Incoming = Server::Incoming;
  using Handle = std::shared_ptr<Stream>;

  void SetUp() override {
    server_ = *Server::create(
        *loop_, UniqueFd(),
        {{"test.Service", "Open", nullptr,
          [this](const Incoming& incoming, const Handle& stream) {
            stream_ = stream;
            payload_ = incoming.payload;
            receive();
          }},
         {"test.Service", "Keep", nullptr,
          [this](const Incoming&, const Handle& stream) { stream_ = stream; }},
         {"test.Service", "Drop", nullptr, [](const Incoming&, const Handle&) {}},
         {"test.Service", "Echo",
          [](const Incoming& incoming, const Server::Reply& reply) { reply(incoming.payload); },
          nullptr}});
    auto pair = *socket_pair(SOCK_STREAM);
    EXPECT_TRUE(server_->adopt(std::move(pair.second)));
    peer_ = std::move(pair.first);
  }

  void receive() {
    stream_->receive([this](std::string data) { received_.push_back(std::move(data)); },
                     [this] { ++ends_; });
  }
  void open(const char* method = "Open", uint8_t flags = kRemoteOpen) {
    put(peer_, request_frame(1, request_of(method, "first"), flags));
    turn(*loop_);
  }

  void put_three() {
    put(peer_, data_frame(1, 0, "a") + data_frame(1, 0, "b") + data_frame(1, kRemoteClosed, "c"));
    turn(*loop_);
  }
  void hand_over_after_one() {
    stream_->receive(
        [this](std::string data) {
          first_ = std::move(data);
          receive();
        },
        [] { FAIL(); });
  }
  void expect_handed_over() const {
    EXPECT_EQ(first_, "a");
    EXPECT_EQ(received_, (std::vector<std::string>{"b", "c"}));
    EXPECT_EQ(ends_, 1);
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::create();
  Handle stream_;
  std::string first_;
  std::string payload_;
  std::vector<std::string> received_;
  int ends_ = 0;
  std::unique_ptr<Server> server_;
  UniqueFd peer_;
};

TEST_F(TtrpcStreamTest, DataGoesBothWays) {
  open();
  EXPECT_EQ(payload_, "first");
  put(peer_, data_frame(1, 0, "to the server"));
  turn(*loop_);
  EXPECT_EQ(received_, std::vector<std::string>{"to the server"});
  stream_->send("to the client");
  const Message message = take_frame(*loop_, peer_);
  EXPECT_EQ(message.stream, 1U);
  EXPECT_EQ(message.type, kDataType);
  EXPECT_EQ(message.flags, 0);
  EXPECT_EQ(message.data, "to the client");
}

TEST_F(TtrpcStreamTest, EmptyDataIsNotNone) {
  open();
  put(peer_, data_frame(1, 0, "") + data_frame(1, kNoData, ""));
  turn(*loop_);
  EXPECT_EQ(received_, std::vector<std::string>{""});
  stream_->send("");
  const Message message = take_frame(*loop_, peer_);
  EXPECT_EQ(message.type, kDataType);
  EXPECT_EQ(message.flags, 0);
}

TEST_F(TtrpcStreamTest, TheClientsEndLeavesTheOtherWayOpen) {
  open();
  put(peer_, data_frame(1, kRemoteClosed | kNoData, ""));
  turn(*loop_);
  EXPECT_EQ(ends_, 1);
  EXPECT_TRUE(received_.empty());
  EXPECT_FALSE(stream_->finished());
  stream_->send("still");
  EXPECT_EQ(take_frame(*loop_, peer_).data, "still");
  stream_->finish({});
  EXPECT_EQ(take_frame(*loop_, peer_).flags, kRemoteClosed | kNoData);
  EXPECT_EQ(ends_, 1);
}

TEST_F(TtrpcStreamTest, TheLastDataMayComeWithTheEnd) {
  open();
  put(peer_, data_frame(1, kRemoteClosed, "last"));
  turn(*loop_);
  EXPECT_EQ(received_, std::vector<std::string>{"last"});
  EXPECT_EQ(ends_, 1);
}

TEST_F(TtrpcStreamTest, ARequestWithoutDataBehindItHasEnded) {
  open("Open", kRemoteClosed);
  EXPECT_EQ(ends_, 1);
  EXPECT_FALSE(stream_->finished());
}

TEST_F(TtrpcStreamTest, DataAfterTheEndIsRefused) {
  open();
  put(peer_, data_frame(1, kRemoteClosed | kNoData, "") + data_frame(1, 0, "more"));
  EXPECT_EQ(take_answer(*loop_, peer_).code, kInvalidArgument);
  EXPECT_TRUE(stream_->finished());
}

TEST_F(TtrpcStreamTest, FinishingEndsBothWays) {
  open();
  stream_->finish({});
  EXPECT_EQ(ends_, 1);
  const Message message = take_frame(*loop_, peer_);
  EXPECT_EQ(message.type, kDataType);
  EXPECT_EQ(message.flags, kRemoteClosed | kNoData);
  stream_->send("dropped");
  stream_->finish(make_error(ErrorKind::kInternal, "dropped"));
  // What was under way is no mistake of the client's.
  put(peer_, data_frame(1, 0, "crossed it") + request_frame(3, request_of("Echo", "next")));
  EXPECT_EQ(take_answer(*loop_, peer_).payload, "next");
  EXPECT_TRUE(received_.empty());
}

TEST_F(TtrpcStreamTest, FinishesWithAnError) {
  open();
  stream_->finish(make_error(ErrorKind::kDataLoss, "lost"));
  const Answer answer = take_answer(*loop_, peer_);
  EXPECT_EQ(answer.stream, 1U);
  EXPECT_EQ(answer.code, static_cast<int>(ErrorKind::kDataLoss));
  EXPECT_EQ(answer.text, "lost");
}

TEST_F(TtrpcStreamTest, DataBeforeReceiveWaits) {
  open("Keep");
  put_three();
  receive();
  EXPECT_EQ(received_, (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(ends_, 1);
}

TEST_F(TtrpcStreamTest, TooManyMessagesThatNobodyTakesEndIt) {
  open("Keep");
  for (int i = 0; i < 65; ++i) put(peer_, data_frame(1, 0, "x"));
  EXPECT_EQ(take_answer(*loop_, peer_).code, kResourceExhausted);
  EXPECT_TRUE(stream_->finished());
}

TEST_F(TtrpcStreamTest, TooManyBytesThatNobodyTakesEndIt) {
  open("Keep");
  for (int i = 0; i < 3; ++i)
    put_all(*loop_, peer_, data_frame(1, 0, std::string(kMaxDataBytes, 'x')));
  EXPECT_EQ(take_answer(*loop_, peer_).code, kResourceExhausted);
  EXPECT_TRUE(stream_->finished());
}

TEST_F(TtrpcStreamTest, AStreamThatNobodyKeepsIsFinished) {
  open("Drop");
  EXPECT_EQ(take_frame(*loop_, peer_).flags, kRemoteClosed | kNoData);
}

TEST_F(TtrpcStreamTest, LettingGoFinishesIt) {
  open();
  stream_.reset();
  EXPECT_EQ(take_frame(*loop_, peer_).flags, kRemoteClosed | kNoData);
  EXPECT_EQ(ends_, 0);
}

TEST_F(TtrpcStreamTest, CallbacksMayKeepTheStream) {
  open("Keep");
  const std::weak_ptr<Stream> weak = stream_;
  stream_->receive([kept = stream_](const std::string& data) { kept->send(data); },
                   [kept = stream_] { kept->finish({}); });
  stream_.reset();
  put(peer_, data_frame(1, 0, "echo") + data_frame(1, kRemoteClosed | kNoData, ""));
  EXPECT_EQ(take_frame(*loop_, peer_).data, "echo");
  EXPECT_EQ(take_frame(*loop_, peer_).flags, kRemoteClosed | kNoData);
  turn(*loop_);
  EXPECT_TRUE(weak.expired());
}

TEST_F(TtrpcStreamTest, ACallbackMayLetGoOfTheStream) {
  open("Keep");
  put(peer_, data_frame(1, 0, "a") + data_frame(1, 0, "b"));
  turn(*loop_);
  int heard = 0;
  stream_->receive(
      [this, &heard](const std::string&) {
        ++heard;
        stream_.reset();
      },
      [] {});
  EXPECT_GE(heard, 1);
  EXPECT_EQ(take_frame(*loop_, peer_).flags, kRemoteClosed | kNoData);
}

TEST_F(TtrpcStreamTest, ACallbackMayFinishTheStream) {
  open("Keep");
  int heard = 0;
  stream_->receive(
      [this, &heard](const std::string&) {
        ++heard;
        stream_->finish(make_error(ErrorKind::kOutOfRange, "enough"));
      },
      [this] { ++ends_; });
  put(peer_, data_frame(1, 0, "a") + data_frame(1, 0, "b"));
  EXPECT_EQ(take_answer(*loop_, peer_).text, "enough");
  turn(*loop_);
  EXPECT_EQ(heard, 1);
  EXPECT_EQ(ends_, 1);
}

TEST_F(TtrpcStreamTest, ACallbackMayHandOverToAnother) {
  open("Keep");
  hand_over_after_one();
  put_three();
  expect_handed_over();
}

TEST_F(TtrpcStreamTest, WhatWaitedMayBeHandedOverToo) {
  open("Keep");
  put_three();
  hand_over_after_one();
  expect_handed_over();
}

TEST_F(TtrpcStreamTest, DataAndTheEndWaitForWhoTakesThem) {
  open("Keep");
  put_three();
  for (int i = 0; i < 2; ++i)
    stream_->receive(
        [this](std::string data) {
          received_.push_back(std::move(data));
          stream_->receive(nullptr, nullptr);
        },
        [] { FAIL(); });
  EXPECT_EQ(received_, (std::vector<std::string>{"a", "b"}));
  receive();
  EXPECT_EQ(received_, (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(ends_, 1);
}

TEST_F(TtrpcStreamTest, TheConnectionsEndWaitsForWhoTakesTheData) {
  open("Keep");
  put(peer_, data_frame(1, 0, "a"));
  peer_.reset();
  turn(*loop_);
  EXPECT_TRUE(stream_->finished());
  receive();
  EXPECT_EQ(received_, std::vector<std::string>{"a"});
  EXPECT_EQ(ends_, 1);
}

TEST_F(TtrpcStreamTest, TheConnectionsEndEndsIt) {
  open();
  peer_.reset();
  turn(*loop_);
  EXPECT_EQ(ends_, 1);
  EXPECT_TRUE(stream_->finished());
  stream_->send("nobody");
  stream_->finish({});
}

TEST_F(TtrpcStreamTest, ADeadlineEndsIt) {
  put(peer_, request_frame(1, request_of("Open", "", 20'000'000), kRemoteOpen));
  EXPECT_EQ(take_answer(*loop_, peer_).code, static_cast<int>(ErrorKind::kDeadlineExceeded));
  EXPECT_EQ(ends_, 1);
  EXPECT_TRUE(stream_->finished());
}

TEST_F(TtrpcStreamTest, TheServersEndBreaksNoStream) {
  open();
  const std::weak_ptr<Stream> weak = stream_;
  stream_->receive([kept = stream_](const std::string&) {}, [] { FAIL(); });
  server_.reset();
  stream_->send("nobody");
  stream_->finish({});
  stream_.reset();
  EXPECT_TRUE(weak.expired());
}

TEST_F(TtrpcStreamTest, DataThatIsTooLongEndsItAlone) {
  open();
  put_all(*loop_, peer_, data_frame(1, 0, std::string(kMaxDataBytes + 1, 'x')));
  EXPECT_EQ(take_answer(*loop_, peer_).code, kResourceExhausted);
  EXPECT_TRUE(stream_->finished());
  put(peer_, request_frame(3, request_of("Echo", "lives")));
  EXPECT_EQ(take_answer(*loop_, peer_).payload, "lives");
}

TEST_F(TtrpcStreamTest, TooLongDataIsNotSent) {
  open();
  stream_->send(std::string(kMaxDataBytes + 1, 'x'));
  EXPECT_EQ(take_answer(*loop_, peer_).code, kResourceExhausted);
}

TEST_F(TtrpcStreamTest, DataForNoStreamIsRefused) {
  put(peer_, data_frame(7, 0, "x") + data_frame(8, 0, "x"));
  const Answer unknown = take_answer(*loop_, peer_);
  EXPECT_EQ(unknown.stream, 7U);
  EXPECT_EQ(unknown.text, "StreamID is no longer active");
  EXPECT_EQ(take_answer(*loop_, peer_).text, "StreamID must be odd for client initiated streams");
}

TEST_F(TtrpcStreamTest, AUnaryCallTakesNoData) {
  put(peer_, request_frame(1, request_of("Echo"), kRemoteOpen));
  EXPECT_EQ(take_answer(*loop_, peer_).code, kInvalidArgument);
}

}  // namespace
}  // namespace kiln::ttrpc
