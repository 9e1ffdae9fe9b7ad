// SPDX-License-Identifier: Apache-2.0
#include "agent/core/forward_socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <filesystem>

#include "agent/core/fake_guest.h"
#include "base/unix_socket.h"
#include "tests/support/socket_reading.h"

namespace kiln::agent {
namespace {

const std::string kToken(32, 'a');

// The host is the other end of each socket pair that the socket is given.
class ForwardSocketTest : public testing::Test {
 protected:
  void SetUp() override {
    auto made = ForwardSocket::listen(*loop_, parent_.path(), {kToken, 0640, getuid(), getgid()},
                                      [this] { return dial(); });
    ASSERT_TRUE(made) << made.error().message;
    socket_ = std::move(*made);
  }
  Result<UniqueFd> dial() {
    if (host_is_gone_) return make_error(ErrorKind::kUnavailable, "nobody listens");
    auto [here, there] = TRY(socket_pair(SOCK_STREAM | SOCK_NONBLOCK));
    hosts_.push_back(std::move(there));
    return std::move(here);
  }
  UniqueFd client() const { return *connect_unix(socket_->path()); }
  static void put(const UniqueFd& fd, std::string_view text) {
    ASSERT_EQ(send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }
  void turn(int times = 20) {
    for (int i = 0; i < times; ++i) ASSERT_TRUE(loop_->run_once(1));
  }
  std::string take(const UniqueFd& fd, size_t size) { return take_bytes(*loop_, fd, size); }

  TemporaryDirectory parent_ = *TemporaryDirectory::create(testing::TempDir(), "agent-");
  std::unique_ptr<EventLoop> loop_ = *EventLoop::create();
  std::deque<UniqueFd> hosts_;
  bool host_is_gone_ = false;
  std::unique_ptr<ForwardSocket> socket_;
};

TEST_F(ForwardSocketTest, SaysItsTokenAndCarriesBothWays) {
  const UniqueFd one = client();
  put(one, "question");
  turn();
  ASSERT_EQ(hosts_.size(), 1U);
  EXPECT_EQ(take(hosts_[0], 40), kToken + "question");
  shutdown(one.get(), SHUT_WR);
  EXPECT_EQ(take(hosts_[0], 1), "");
  put(hosts_[0], "answer");
  EXPECT_EQ(take(one, 6), "answer");
  hosts_.clear();
  EXPECT_EQ(take(one, 1), "");
  EXPECT_EQ(socket_->connections(), 0U);
}

TEST_F(ForwardSocketTest, HasTheHostsModeAndLeavesNothing) {
  struct stat info {};
  ASSERT_EQ(stat(socket_->path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode, S_IFSOCK | 0640U);
  socket_.reset();
  EXPECT_TRUE(std::filesystem::is_empty(parent_.path()));
}

TEST_F(ForwardSocketTest, ClosesWhatTheHostDoesNotTake) {
  host_is_gone_ = true;
  EXPECT_EQ(take(client(), 1), "");
  EXPECT_EQ(socket_->connections(), 0U);
}

TEST_F(ForwardSocketTest, HasABoundOfConnections) {
  std::vector<UniqueFd> clients;
  for (size_t i = 0; i < ForwardSocket::kMaxConnections; ++i) {
    clients.push_back(client());
    turn(2);
  }
  EXPECT_EQ(socket_->connections(), ForwardSocket::kMaxConnections);
  EXPECT_EQ(take(client(), 1), "");
}

TEST_F(ForwardSocketTest, SettlesWhenTheLastWordsHaveLeft) {
  EXPECT_TRUE(socket_->settle());
  {
    const UniqueFd one = client();
    put(one, "last words");
  }
  EXPECT_FALSE(socket_->settle());  // taken, though the loop has not turned
  turn();
  EXPECT_TRUE(socket_->settle());
  EXPECT_EQ(take(hosts_.at(0), 42), kToken + "last words");
}

class ForwardsTest : public ServerTest {
 protected:
  const std::string& parent_path() const { return parent_.path(); }

 private:
  TemporaryDirectory parent_ = *TemporaryDirectory::create(testing::TempDir(), "served-");
};

TEST_F(ForwardsTest, TheSocketIsTheMountsSource) {
  state_.host_port = 1030;
  forwards_ = {1030, {{0, {kToken, 0600, getuid(), getgid()}}}, {}};
  run("sleep 100");
  const UniqueFd client = *connect_unix(state_.bind_sources.at(0));
  until([&] { return !state_.dialed.empty(); }, "nobody dialled");
  EXPECT_EQ(take_bytes(*loop_, state_.dialed[0], 32), kToken);
}

TEST_F(ForwardsTest, AMountThatIsNotThereIsRefused) {
  adopt();
  forwards_ = {1030, {{99, {kToken, 0600, getuid(), getgid()}}}, {}};
  EXPECT_EQ(kind_of(create("true")), ErrorKind::kInvalidArgument);
}

TEST_F(ForwardsTest, TheEndIsToldAfterTheLastWords) {
  state_.host_port = 1030;
  forwards_ = {1030, {{0, {kToken, 0600, getuid(), getgid()}}}, {}};
  adopt();
  ASSERT_FALSE(create("read line; exit 3").error);
  start();
  UniqueFd client = *connect_unix(state_.bind_sources.at(0));
  const std::string words(65536, 'w');
  // As much as there is room for on the whole way: the host reads late.
  size_t said = 0;
  for (int i = 0; i < 100; ++i) {
    const ssize_t put = ::send(client.get(), words.data(), words.size(), MSG_DONTWAIT);
    if (put > 0) said += static_cast<size_t>(put);
    turn();
  }
  client.reset();
  const UniqueFd input = dial("stdin");
  ASSERT_EQ(::send(input.get(), "\n", 1, 0), 1);
  for (int i = 0; i < 20; ++i) turn();
  const auto exits = [&] {
    return std::count_if(messages_.begin(), messages_.end(), [](const auto& message) {
      return message.event && message.event->name == "exit";
    });
  };
  EXPECT_EQ(exits(), 0);
  EXPECT_EQ(take_bytes(*loop_, state_.dialed.at(0), 32 + said).size(), 32 + said);
  EXPECT_EQ(wait_exit().exit_code, 3);
}

TEST_F(ForwardsTest, TheHostReachesWhatTheContainerServes) {
  const UniqueFd server = *listen_unix(parent_path() + "/app.sock", SOCK_STREAM | SOCK_NONBLOCK);
  state_.container_root.reset(open(parent_path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  forwards_.served = {"/../app.sock", "/lost.sock"};
  run("sleep 100");
  const UniqueFd stream = dial("serve:0");
  UniqueFd accepted(accept4(server.get(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_TRUE(accepted);
  ASSERT_EQ(::send(stream.get(), "question", 8, 0), 8);
  EXPECT_EQ(take_bytes(*loop_, accepted, 8), "question");
  shutdown(stream.get(), SHUT_WR);
  EXPECT_EQ(take_bytes(*loop_, accepted, 1), "");
  ASSERT_EQ(::send(accepted.get(), "answer", 6, 0), 6);
  accepted.reset();
  EXPECT_EQ(drain(stream), "answer");
  std::optional<Error> refusal;
  dial("serve:1", "", &refusal);
  EXPECT_EQ(refusal.value_or(Error{}).sys_errno, ENOENT);
  dial("serve:2", "", &refusal);
  EXPECT_EQ(refusal.value_or(Error{}).kind, ErrorKind::kNotFound);
}

}  // namespace
}  // namespace kiln::agent
