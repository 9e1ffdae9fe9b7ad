// SPDX-License-Identifier: Apache-2.0
#include "shim/ttrpc/server.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/unix_socket.h"
#include "tests/support/ttrpc_frames.h"

namespace kiln::ttrpc {
namespace {

constexpr int kCancelled = static_cast<int>(ErrorKind::kCancelled);
constexpr int kInvalidArgument = static_cast<int>(ErrorKind::kInvalidArgument);
constexpr int kDeadlineExceeded = static_cast<int>(ErrorKind::kDeadlineExceeded);
constexpr int kResourceExhausted = static_cast<int>(ErrorKind::kResourceExhausted);
constexpr int kAborted = static_cast<int>(ErrorKind::kAborted);
constexpr int kUnimplemented = static_cast<int>(ErrorKind::kUnimplemented);
constexpr int64_t kMillisecond = 1'000'000;

// Echo answers at once; Later when the test does; Fail with the kind that the payload names.
class TtrpcServerTest : public testing::Test {
 protected:
  using Incoming = Server::Incoming;
  using Reply = Server::Reply;

  void SetUp() override {
    server_ = *Server::create(
        *loop_, UniqueFd(),
        {{"test.Service", "Echo", echo, nullptr},
         {"test.Service", "Later",
          [this](const Incoming& incoming, const Reply& reply) {
            requests_.push_back(incoming);
            replies_.push_back(reply);
          },
          nullptr},
         {"test.Service", "Fail", fail, nullptr},
         {"test.Service", "Forget", [](const Incoming&, const Reply&) {}, nullptr}});
    peer_ = connect();
  }

  static void echo(const Incoming& incoming, const Reply& reply) { reply(incoming.payload); }
  static void fail(const Incoming& incoming, const Reply& reply) {
    reply(make_error(static_cast<ErrorKind>(std::stoi(incoming.payload)), "because"));
  }

  UniqueFd connect() {
    auto pair = *socket_pair(SOCK_STREAM);
    EXPECT_TRUE(server_->adopt(std::move(pair.second)));
    return std::move(pair.first);
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::create();
  std::vector<Incoming> requests_;
  std::vector<Reply> replies_;
  std::unique_ptr<Server> server_;
  UniqueFd peer_;
};

TEST_F(TtrpcServerTest, AnswersACall) {
  put(peer_, request_frame(1, request_of("Echo", "hello")));
  const Answer answer = take_answer(*loop_, peer_);
  EXPECT_EQ(answer.stream, 1U);
  EXPECT_EQ(answer.code, 0);
  EXPECT_EQ(answer.payload, "hello");
}

TEST_F(TtrpcServerTest, AnswersInTheOrderOfTheAnswers) {
  std::string bytes;
  for (uint32_t i = 0; i < 1000; ++i)
    bytes += request_frame(2 * i + 1, request_of("Later", std::to_string(i)));
  put(peer_, bytes);
  ASSERT_TRUE(turn_until(*loop_, [this] { return replies_.size() == 1000; }));
  for (size_t i = 1000; i-- > 0;) replies_[i](requests_[i].payload);
  for (uint32_t i = 1000; i-- > 0;) {
    const Answer answer = take_answer(*loop_, peer_);
    ASSERT_EQ(answer.stream, 2 * i + 1);
    ASSERT_EQ(answer.payload, std::to_string(i));
  }
}

TEST_F(TtrpcServerTest, StreamIdsMustBeOdd) {
  put(peer_, request_frame(2, request_of("Echo")) + request_frame(0, request_of("Echo")));
  for (const uint32_t stream : {2U, 0U}) {
    const Answer answer = take_answer(*loop_, peer_);
    EXPECT_EQ(answer.stream, stream);
    EXPECT_EQ(answer.code, kInvalidArgument);
    EXPECT_EQ(answer.text, "StreamID must be odd for client initiated streams");
  }
  put(peer_, request_frame(3, request_of("Echo", "lives")));
  EXPECT_EQ(take_answer(*loop_, peer_).payload, "lives");
}

TEST_F(TtrpcServerTest, StreamIdsMustIncrease) {
  put(peer_, request_frame(5, request_of("Echo")) + request_frame(5, request_of("Echo")) +
                 request_frame(3, request_of("Echo")));
  EXPECT_EQ(take_answer(*loop_, peer_).code, 0);
  for (const uint32_t stream : {5U, 3U}) {
    const Answer answer = take_answer(*loop_, peer_);
    EXPECT_EQ(answer.stream, stream);
    EXPECT_EQ(answer.code, kInvalidArgument);
    EXPECT_EQ(answer.text, "StreamID cannot be re-used and must increment");
  }
}

TEST_F(TtrpcServerTest, EachConnectionHasItsOwnStreams) {
  const UniqueFd other = connect();
  put(peer_, request_frame(9, request_of("Echo", "a")));
  put(other, request_frame(1, request_of("Echo", "b")));
  EXPECT_EQ(take_answer(*loop_, peer_).payload, "a");
  EXPECT_EQ(take_answer(*loop_, other).payload, "b");
  EXPECT_EQ(server_->connections(), 2U);
}

TEST_F(TtrpcServerTest, ATooLongRequestIsRefusedAlone) {
  put_all(*loop_, peer_,
          frame(1, 1, 0, std::string(kMaxDataBytes + 1, 'x')) +
              request_frame(3, request_of("Echo", "lives")));
  const Answer answer = take_answer(*loop_, peer_);
  EXPECT_EQ(answer.stream, 1U);
  EXPECT_EQ(answer.code, kResourceExhausted);
  EXPECT_EQ(take_answer(*loop_, peer_).payload, "lives");
}

TEST_F(TtrpcServerTest, ATooLongResponseBecomesAnError) {
  put(peer_, request_frame(1, request_of("Later")));
  turn(*loop_);
  replies_.at(0)(std::string(kMaxDataBytes, 'x'));
  EXPECT_EQ(take_answer(*loop_, peer_).code, kResourceExhausted);
}

TEST_F(TtrpcServerTest, ARequestThatIsNoneIsRefused) {
  put(peer_, frame(1, 1, 0, "\xff\xff\xff"));
  EXPECT_EQ(take_answer(*loop_, peer_).code, kInvalidArgument);
}

TEST_F(TtrpcServerTest, UnknownServicesAndMethodsAreUnimplemented) {
  api::Request request = request_of("Echo");
  request.set_service("other.Service");
  put(peer_, request_frame(1, request) + request_frame(3, request_of("Nothing")));
  const Answer service = take_answer(*loop_, peer_);
  EXPECT_EQ(service.code, kUnimplemented);
  EXPECT_EQ(service.text, "service other.Service");
  const Answer method = take_answer(*loop_, peer_);
  EXPECT_EQ(method.code, kUnimplemented);
  EXPECT_EQ(method.text, "method Nothing");
}

TEST_F(TtrpcServerTest, UnknownTypesOfMessagesAreIgnored) {
  put(peer_, frame(1, 2, 0, "a response") + frame(1, 99, 0, "of a later protocol") +
                 request_frame(1, request_of("Echo", "lives")));
  const Answer answer = take_answer(*loop_, peer_);
  EXPECT_EQ(answer.stream, 1U);
  EXPECT_EQ(answer.payload, "lives");
}

TEST_F(TtrpcServerTest, EveryErrorKindIsAStatus) {
  for (int code = kCancelled; code <= static_cast<int>(ErrorKind::kDataLoss); ++code) {
    put(peer_, request_frame(static_cast<uint32_t>(2 * code + 1),
                             request_of("Fail", std::to_string(code))));
    const Answer answer = take_answer(*loop_, peer_);
    EXPECT_EQ(answer.code, code);
    EXPECT_EQ(answer.text, "because");
  }
}

TEST_F(TtrpcServerTest, MetadataReachesTheMethod) {
  api::Request request = request_of("Later");
  for (const char* value : {"one", "two"}) {
    api::KeyValue* item = request.add_metadata();
    item->set_key("containerd-namespace-ttrpc");
    item->set_value(value);
  }
  put(peer_, request_frame(1, request));
  ASSERT_TRUE(turn_until(*loop_, [this] { return !requests_.empty(); }));
  EXPECT_EQ(requests_[0].metadata.count("containerd-namespace-ttrpc"), 2U);
  EXPECT_EQ(requests_[0].metadata.begin()->second, "one");
}

TEST_F(TtrpcServerTest, ADeadlineEndsTheCall) {
  put(peer_, request_frame(1, request_of("Later", "", 20 * kMillisecond)));
  turn(*loop_);
  ASSERT_EQ(replies_.size(), 1U);
  EXPECT_TRUE(replies_[0].wanted());
  const Answer answer = take_answer(*loop_, peer_);
  EXPECT_EQ(answer.code, kDeadlineExceeded);
  EXPECT_EQ(answer.text, "context deadline exceeded");
  EXPECT_FALSE(replies_[0].wanted());
  replies_[0](std::string("too late"));
  put(peer_, request_frame(3, request_of("Echo", "next")));
  EXPECT_EQ(take_answer(*loop_, peer_).payload, "next");
}

TEST_F(TtrpcServerTest, ACallWhoseDeadlineIsOverIsNotMade) {
  put(peer_, request_frame(1, request_of("Later", "", -5)));
  EXPECT_EQ(take_answer(*loop_, peer_).code, kDeadlineExceeded);
  EXPECT_TRUE(replies_.empty());
}

TEST_F(TtrpcServerTest, TheLongestDeadlineIsOne) {
  put(peer_, request_frame(1, request_of("Later", "", INT64_MAX)));
  turn(*loop_);
  ASSERT_EQ(replies_.size(), 1U);
  EXPECT_TRUE(replies_[0].wanted());
}

TEST_F(TtrpcServerTest, ACallIsUnwantedOnceItsConnectionHasEnded) {
  put(peer_, request_frame(1, request_of("Later", "", 1000 * kMillisecond)));
  turn(*loop_);
  peer_.reset();
  turn(*loop_);
  ASSERT_EQ(replies_.size(), 1U);
  EXPECT_FALSE(replies_[0].wanted());
  replies_[0](std::string("nobody is there"));
  EXPECT_EQ(server_->connections(), 0U);
}

TEST_F(TtrpcServerTest, OnlyTheFirstAnswerCounts) {
  put(peer_, request_frame(1, request_of("Later")));
  turn(*loop_);
  replies_.at(0)(std::string("first"));
  replies_.at(0)(std::string("second"));
  put(peer_, request_frame(3, request_of("Echo", "third")));
  EXPECT_EQ(take_answer(*loop_, peer_).payload, "first");
  EXPECT_EQ(take_answer(*loop_, peer_).payload, "third");
}

TEST_F(TtrpcServerTest, ACallThatIsForgottenIsAnswered) {
  put(peer_, request_frame(1, request_of("Forget")));
  EXPECT_EQ(take_answer(*loop_, peer_).code, kAborted);
}

TEST_F(TtrpcServerTest, TooManyCallsAtOnceAreRefused) {
  std::string bytes;
  for (uint32_t i = 0; i < 4097; ++i) bytes += request_frame(2 * i + 1, request_of("Later"));
  put_all(*loop_, peer_, bytes);
  const Answer answer = take_answer(*loop_, peer_);
  EXPECT_EQ(answer.stream, 8193U);
  EXPECT_EQ(answer.code, kResourceExhausted);
  EXPECT_EQ(replies_.size(), 4096U);
}

TEST_F(TtrpcServerTest, AClientThatDoesNotReadCannotMakeItStoreWithoutEnd) {
  const std::string request = request_frame(1, request_of("Echo", std::string(1 << 20, 'x')));
  size_t sent = 0;
  for (uint32_t stream = 1; stream < 200; stream += 2) {
    std::string bytes = request;
    bytes.replace(4, 4, big_endian(stream));
    std::string_view rest = bytes;
    for (int i = 0; i < 2000 && !rest.empty(); ++i) {
      const ssize_t some = ::send(peer_.get(), rest.data(), rest.size(), MSG_DONTWAIT);
      if (some > 0) rest.remove_prefix(static_cast<size_t>(some));
      ASSERT_TRUE(loop_->run_once(0));
    }
    if (!rest.empty()) break;
    sent += bytes.size();
  }
  EXPECT_LT(sent, size_t{12} << 20);
  EXPECT_FALSE(server_->sent_everything());
}

TEST_F(TtrpcServerTest, MayGoWhileCallsAreOpen) {
  put(peer_, request_frame(1, request_of("Later", "", 50 * kMillisecond)));
  turn(*loop_);
  server_.reset();
  EXPECT_FALSE(replies_.at(0).wanted());
  replies_.at(0)(std::string("nobody sends it"));
  EXPECT_EQ(take_bytes(*loop_, peer_, 1), "");
}

TEST_F(TtrpcServerTest, TakesConnectionsOfItsListener) {
  const std::string path = testing::TempDir() + "/ttrpc-server-" + std::to_string(getpid());
  server_ = *Server::create(*loop_, *listen_unix(path, SOCK_STREAM | SOCK_NONBLOCK),
                            {{"test.Service", "Echo", echo, nullptr}});
  const UniqueFd client = *connect_unix(path);
  put(client, request_frame(1, request_of("Echo", "hello")));
  EXPECT_EQ(take_answer(*loop_, client).payload, "hello");
  EXPECT_EQ(server_->connections(), 1U);
  unlink(path.c_str());
}

}  // namespace
}  // namespace kiln::ttrpc
