// SPDX-License-Identifier: Apache-2.0
#include "runtime/stream_dialer.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <optional>

#include "base/file.h"
#include "base/unix_socket.h"

namespace kiln::runtime {
namespace {

class StreamDialerTest : public testing::Test {
 protected:
  void SetUp() override {
    loop_ = std::move(*EventLoop::create());
    auto [here, there] = *socket_pair(SOCK_STREAM);
    guest_ = std::move(there);
    dialer_ = std::move(*StreamDialer::start(
        *loop_, std::move(here), {"c1", "", "stdout"}, 200,
        [this](Result<UniqueFd> result) { result_.emplace(std::move(result)); }));
  }
  void say(const std::string& bytes) {
    ASSERT_TRUE(send_with_fds(guest_.get(), bytes, {}));
    for (int i = 0; i < 40; ++i) ASSERT_TRUE(loop_->run_once(0));
  }
  std::string heard(size_t size) {
    std::string out(size, '\0');
    EXPECT_EQ(*read_fully(guest_.get(), out.data(), size), size);
    return out;
  }

  std::unique_ptr<EventLoop> loop_;
  UniqueFd guest_;
  std::unique_ptr<StreamDialer> dialer_;
  std::optional<Result<UniqueFd>> result_;
};

TEST_F(StreamDialerTest, LeavesTheStreamUntouchedBehindTheAnswer) {
  EXPECT_EQ(heard(13), "CONNECT 1025\n");
  say("OK 1073741824\n");
  const auto header = protocol::decode_stream_header(*receive_frame(guest_.get(), 8192));
  ASSERT_TRUE(header);
  EXPECT_EQ(header->container_id, "c1");
  EXPECT_EQ(header->stream, "stdout");
  const std::string reply = protocol::encode_stream_reply(std::nullopt);
  const auto size = static_cast<uint32_t>(reply.size());
  say(std::string(reinterpret_cast<const char*>(&size), sizeof size) + reply + "data");
  ASSERT_TRUE(result_ && *result_);
  std::array<char, 16> data{};
  EXPECT_EQ(read((*result_)->get(), data.data(), data.size()), 4);
  EXPECT_STREQ(data.data(), "data");
}

TEST_F(StreamDialerTest, ARefusalOfTheAgentIsTheError) {
  say("OK 1\n");
  const std::string reply =
      protocol::encode_stream_reply(Error{ErrorKind::kNotFound, 0, "no such"});
  ASSERT_TRUE(send_frame(guest_.get(), reply));
  say(" ");
  ASSERT_TRUE(result_ && !*result_);
  EXPECT_EQ(result_->error().kind, ErrorKind::kNotFound);
  EXPECT_EQ(result_->error().message, "open the process's stdout: no such");
}

TEST_F(StreamDialerTest, AClosedConnectionIsARefusal) {
  guest_.reset();
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(loop_->run_once(5));
  ASSERT_TRUE(result_ && !*result_);
}

TEST_F(StreamDialerTest, SilenceTimesOut) {
  for (int i = 0; i < 100 && !result_; ++i) ASSERT_TRUE(loop_->run_once(20));
  ASSERT_TRUE(result_ && !*result_);
  EXPECT_EQ(result_->error().kind, ErrorKind::kDeadlineExceeded);
}

TEST_F(StreamDialerTest, AnEndlessGreetingIsRefused) {
  say("OK " + std::string(64, '1'));
  ASSERT_TRUE(result_ && !*result_);
}

TEST_F(StreamDialerTest, AnotherGreetingIsRefused) {
  say("NO\n");
  ASSERT_TRUE(result_ && !*result_);
}

TEST_F(StreamDialerTest, AnAnswerOfABadSizeIsRefused) {
  say("OK 1\n");
  say(std::string("\xff\xff\xff\xff", 4));
  ASSERT_TRUE(result_ && !*result_);
}

}  // namespace
}  // namespace kiln::runtime
