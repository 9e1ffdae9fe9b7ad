// SPDX-License-Identifier: Apache-2.0
#include "shim/ttrpc/client.h"

#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "base/unix_socket.h"
#include "tests/support/ttrpc_frames.h"

namespace kiln::ttrpc {
namespace {

class TtrpcClientTest : public testing::Test {
 protected:
  void SetUp() override {
    auto pair = *socket_pair(SOCK_STREAM);
    server_ = std::move(pair.first);
    client_ = *Client::create(*loop_, std::move(pair.second), [this](const Error&) { ++closed_; });
  }

  void call(int64_t timeout_ms = 0) {
    client_->call(
        {"test.Service", "Method", "payload", timeout_ms, {{"key", "value"}}},
        [this](Result<std::string> response) { answers_.push_back(std::move(response)); });
  }
  uint32_t open() {
    return client_->open_stream(
        {"test.Service", "Stream", ""},
        {[this](std::string data) { received_.push_back(std::move(data)); },
         [this](Result<void> outcome) { ends_.push_back(std::move(outcome)); }});
  }
  void answer(const std::string& bytes) {
    put(server_, bytes);
    turn(*loop_);
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::create();
  std::vector<Result<std::string>> answers_;
  std::vector<std::string> received_;
  std::vector<Result<void>> ends_;
  int closed_ = 0;
  UniqueFd server_;
  std::unique_ptr<Client> client_;
};

TEST_F(TtrpcClientTest, SendsARequestAsTheProtocolHasIt) {
  call(1500);
  const Message message = take_frame(*loop_, server_);
  EXPECT_EQ(message.stream, 1U);
  EXPECT_EQ(message.type, static_cast<uint8_t>(MessageType::kRequest));
  EXPECT_EQ(message.flags, 0);
  api::Request request;
  ASSERT_TRUE(request.ParseFromString(message.data));
  EXPECT_EQ(request.service(), "test.Service");
  EXPECT_EQ(request.method(), "Method");
  EXPECT_EQ(request.payload(), "payload");
  EXPECT_EQ(request.timeout_nano(), 1'500'000'000);
  ASSERT_EQ(request.metadata_size(), 1);
  EXPECT_EQ(request.metadata(0).key(), "key");
  EXPECT_EQ(request.metadata(0).value(), "value");
}

TEST_F(TtrpcClientTest, AnswersMayComeInAnyOrder) {
  std::vector<std::string> answers(1000);
  for (size_t i = 0; i < answers.size(); ++i)
    client_->call({"test.Service", "Method", ""}, [&answers, i](const Result<std::string>& answer) {
      answers[i] = answer.value_or("");
    });
  std::string bytes;
  for (uint32_t i = 1000; i-- > 0;) bytes += response_frame(2 * i + 1, std::to_string(i));
  put_all(*loop_, server_, bytes);
  ASSERT_TRUE(turn_until(*loop_, [&] { return !answers[0].empty(); }));
  for (size_t i = 0; i < answers.size(); ++i) EXPECT_EQ(answers[i], std::to_string(i));
}

TEST_F(TtrpcClientTest, EveryStatusIsAnErrorKind) {
  for (int code = 1; code <= 15; ++code) {
    call();
    answer(response_frame(static_cast<uint32_t>(2 * code - 1), "", code, "because"));
    ASSERT_FALSE(answers_.back());
    EXPECT_EQ(static_cast<int>(answers_.back().error().kind), code);
    EXPECT_EQ(answers_.back().error().message, "because");
  }
}

TEST_F(TtrpcClientTest, ATimeoutEndsTheCallAndALateAnswerIsDropped) {
  call(20);
  ASSERT_TRUE(turn_until(*loop_, [this] { return !answers_.empty(); }));
  EXPECT_EQ(answers_[0].error().kind, ErrorKind::kDeadlineExceeded);
  answer(response_frame(1, "late"));
  EXPECT_EQ(answers_.size(), 1U);
  call();
  answer(response_frame(3, "next"));
  EXPECT_EQ(*answers_.at(1), "next");
}

TEST_F(TtrpcClientTest, TheConnectionsEndAnswersEveryCallFirst) {
  call();
  call(1000);
  server_.reset();
  turn(*loop_);
  ASSERT_EQ(answers_.size(), 2U);
  EXPECT_EQ(answers_[0].error().kind, ErrorKind::kUnavailable);
  EXPECT_EQ(answers_[1].error().kind, ErrorKind::kUnavailable);
  EXPECT_EQ(closed_, 1);
  EXPECT_TRUE(client_->closed());
}

TEST_F(TtrpcClientTest, ACallAfterTheEndIsAnsweredLater) {
  server_.reset();
  turn(*loop_);
  call(50);
  EXPECT_TRUE(answers_.empty());
  turn(*loop_);
  ASSERT_EQ(answers_.size(), 1U);
  EXPECT_EQ(answers_[0].error().kind, ErrorKind::kUnavailable);
}

TEST_F(TtrpcClientTest, WhoTriesAgainAtOnceDoesNotHoldItForEver) {
  int tries = 0;
  std::function<void(Result<std::string>)> again = [&](const Result<std::string>&) {
    ++tries;
    client_->call({"test.Service", "Method", ""}, again);
  };
  client_->call({"test.Service", "Method", ""}, again);
  server_.reset();
  turn(*loop_);
  EXPECT_EQ(closed_, 1);
  EXPECT_LT(tries, 10);
}

TEST_F(TtrpcClientTest, AnAnswerMayDestroyIt) {
  for (int i = 0; i < 3; ++i)
    client_->call({"test.Service", "Method", "", 1000},
                  [this](const Result<std::string>&) { client_.reset(); });
  server_.reset();
  turn(*loop_);
  EXPECT_EQ(client_, nullptr);
  EXPECT_EQ(closed_, 0);
}

TEST_F(TtrpcClientTest, TellsNobodyWhenItIsDestroyed) {
  call(10);
  client_.reset();
  loop_->add_timer(30, [] {});
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(loop_->run_once(20));
  EXPECT_TRUE(answers_.empty());
}

TEST_F(TtrpcClientTest, ATooLongRequestIsNotSent) {
  client_->call({"test.Service", "Method", std::string(kMaxDataBytes, 'x')},
                [this](Result<std::string> answer) { answers_.push_back(std::move(answer)); });
  turn(*loop_);
  ASSERT_EQ(answers_.size(), 1U);
  EXPECT_EQ(answers_[0].error().kind, ErrorKind::kResourceExhausted);
  EXPECT_FALSE(client_->closed());
}

TEST_F(TtrpcClientTest, ATooLongResponseFailsItsCallAlone) {
  call();
  call();
  put_all(*loop_, server_,
          frame(1, 2, 0, std::string(kMaxDataBytes + 1, 'x')) + response_frame(3, "fine"));
  ASSERT_TRUE(turn_until(*loop_, [this] { return answers_.size() == 2; }));
  EXPECT_EQ(answers_[0].error().kind, ErrorKind::kResourceExhausted);
  EXPECT_EQ(*answers_[1], "fine");
}

TEST_F(TtrpcClientTest, NonsenseFailsItsCallAlone) {
  for (int i = 0; i < 4; ++i) call();
  answer(frame(1, 2, 0, "\xff\xff") + frame(3, 9, 0, "") + data_frame(5, 0, "unasked") +
         frame(98, 2, 0, "nobody's") + response_frame(7, "fine"));
  ASSERT_EQ(answers_.size(), 4U);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(answers_[i].error().kind, ErrorKind::kInternal) << i;
  EXPECT_EQ(*answers_[3], "fine");
}

TEST_F(TtrpcClientTest, AStreamGoesBothWays) {
  const uint32_t stream = open();
  EXPECT_EQ(take_frame(*loop_, server_).flags, kRemoteOpen);
  client_->send(stream, "out");
  client_->send(stream, "");
  client_->end_sending(stream);
  EXPECT_EQ(take_frame(*loop_, server_).data, "out");
  EXPECT_EQ(take_frame(*loop_, server_).flags, 0);
  EXPECT_EQ(take_frame(*loop_, server_).flags, kRemoteClosed | kNoData);
  answer(data_frame(stream, 0, "in") + data_frame(stream, 0, "") + data_frame(stream, kNoData, "") +
         data_frame(stream, kRemoteClosed | kNoData, ""));
  EXPECT_EQ(received_, (std::vector<std::string>{"in", ""}));
  ASSERT_EQ(ends_.size(), 1U);
  EXPECT_TRUE(ends_[0]);
}

TEST_F(TtrpcClientTest, AStreamEndsWithItsLastData) {
  const uint32_t stream = open();
  answer(data_frame(stream, kRemoteClosed, "last"));
  EXPECT_EQ(received_, std::vector<std::string>{"last"});
  EXPECT_EQ(ends_.size(), 1U);
}

TEST_F(TtrpcClientTest, AStreamEndsWithAResponse) {
  const uint32_t first = open();
  const uint32_t second = open();
  answer(response_frame(first, "") + response_frame(second, "", 15, "lost"));
  ASSERT_EQ(ends_.size(), 2U);
  EXPECT_TRUE(ends_[0]);
  EXPECT_EQ(ends_[1].error().kind, ErrorKind::kDataLoss);
}

TEST_F(TtrpcClientTest, AStreamEndsWithItsConnection) {
  open();
  server_.reset();
  turn(*loop_);
  ASSERT_EQ(ends_.size(), 1U);
  EXPECT_EQ(ends_[0].error().kind, ErrorKind::kUnavailable);
}

TEST_F(TtrpcClientTest, TooLongDataEndsAStream) {
  const uint32_t stream = open();
  client_->send(stream, std::string(kMaxDataBytes + 1, 'x'));
  EXPECT_TRUE(ends_.empty());
  turn(*loop_);
  ASSERT_EQ(ends_.size(), 1U);
  EXPECT_EQ(ends_[0].error().kind, ErrorKind::kResourceExhausted);
}

TEST_F(TtrpcClientTest, DataMayDestroyIt) {
  const uint32_t stream = client_->open_stream(
      {"test.Service", "Stream", ""},
      {[this](const std::string&) { client_.reset(); }, [](const Result<void>&) { FAIL(); }});
  answer(data_frame(stream, kRemoteClosed, "x") + data_frame(stream, 0, "y"));
  EXPECT_EQ(client_, nullptr);
}

}  // namespace
}  // namespace kiln::ttrpc
