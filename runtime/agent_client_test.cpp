// SPDX-License-Identifier: Apache-2.0
#include "runtime/agent_client.h"

#include <gtest/gtest.h>

#include <optional>

#include "base/unix_socket.h"

namespace kiln::runtime {
namespace {

constexpr size_t kMax = size_t{1} << 20;

// The agent's end of a socket pair, driven by hand.
class AgentClientTest : public testing::Test {
 protected:
  void SetUp() override {
    loop_ = std::move(*EventLoop::create());
    auto [here, there] = *socket_pair(SOCK_STREAM);
    agent_ = std::move(there);
    AgentClient::Callbacks callbacks;
    callbacks.on_hello = [this](const protocol::Hello&) { ++hellos_; };
    callbacks.on_exit = [this](const protocol::ExitEvent& event) { exit_ = event; };
    callbacks.on_closed = [this](const Error& error) { closed_ = error.message; };
    client_ = std::move(*AgentClient::create(*loop_, std::move(here), std::move(callbacks)));
  }
  void say(const std::string& payload) {
    ASSERT_TRUE(send_frame(agent_.get(), payload));
    spin();
  }
  void spin() {
    for (int i = 0; i < 5; ++i) ASSERT_TRUE(loop_->run_once(5));
  }
  void greet() { say(protocol::encode(protocol::Event{"hello", protocol::to_json(hello())})); }
  static protocol::Hello hello() { return {protocol::kProtocolVersion, "0.1.0", "6.1.0"}; }
  protocol::Request heard() {
    return *protocol::decode_request(*receive_frame(agent_.get(), kMax));
  }

  std::unique_ptr<EventLoop> loop_;
  UniqueFd agent_;
  std::unique_ptr<AgentClient> client_;
  int hellos_ = 0;
  std::optional<protocol::ExitEvent> exit_;
  std::optional<std::string> closed_;
};

TEST_F(AgentClientTest, AnswersReachTheirRequestsInAnyOrder) {
  greet();
  std::vector<std::string> order;
  client_->request("pause", Json::object(), 1000,
                   [&](const Result<Json>& r) { order.emplace_back(r ? "pause" : "failed"); });
  client_->request("resume", Json::object(), 1000,
                   [&](const Result<Json>& r) { order.emplace_back(r ? "resume" : "failed"); });
  const auto first = heard();
  const auto second = heard();
  say(protocol::encode(protocol::Reply{second.id, Json::object(), std::nullopt}));
  say(protocol::encode(protocol::Reply{first.id, Json::object(), std::nullopt}));
  EXPECT_EQ(order, (std::vector<std::string>{"resume", "pause"}));
  EXPECT_EQ(hellos_, 1);
}

TEST_F(AgentClientTest, AnErrorOfTheAgentArrivesWithItsKind) {
  greet();
  std::optional<Error> error;
  client_->request("start", Json::object(), 1000,
                   [&](const Result<Json>& r) { error = r.error(); });
  say(protocol::encode(protocol::Reply{heard().id, Json(),
                                       Error{ErrorKind::kNotFound, 2, "exec: \"x\": not found"}}));
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind, ErrorKind::kNotFound);
  EXPECT_EQ(error->message, "exec: \"x\": not found");
}

TEST_F(AgentClientTest, ASilentAgentTimesOutAndItsLateAnswerIsDropped) {
  greet();
  std::vector<ErrorKind> kinds;
  client_->request("pause", Json::object(), 20,
                   [&](const Result<Json>& r) { kinds.push_back(r.error().kind); });
  const auto request = heard();
  for (int i = 0; i < 100 && kinds.empty(); ++i) ASSERT_TRUE(loop_->run_once(5));
  say(protocol::encode(protocol::Reply{request.id, Json::object(), std::nullopt}));
  EXPECT_EQ(kinds, std::vector<ErrorKind>{ErrorKind::kDeadlineExceeded});
  EXPECT_FALSE(closed_);
}

TEST_F(AgentClientTest, AnAnswerToNothingEndsTheConnection) {
  greet();
  say(protocol::encode(protocol::Reply{77, Json::object(), std::nullopt}));
  ASSERT_TRUE(closed_);
  EXPECT_NE(closed_->find("answer to nothing"), std::string::npos);
}

TEST_F(AgentClientTest, EventsBeforeHelloEndTheConnection) {
  protocol::ExitEvent event;
  event.container_id = "c";
  say(protocol::encode(protocol::Event{"exit", protocol::to_json(event)}));
  EXPECT_TRUE(closed_);
  EXPECT_FALSE(exit_);
}

TEST_F(AgentClientTest, ASecondHelloEndsTheConnection) {
  greet();
  greet();
  EXPECT_TRUE(closed_);
}

TEST_F(AgentClientTest, AnotherProtocolVersionIsRefused) {
  auto other = hello();
  other.protocol_version = protocol::kProtocolVersion + 1;
  say(protocol::encode(protocol::Event{"hello", protocol::to_json(other)}));
  EXPECT_TRUE(closed_);
  EXPECT_EQ(hellos_, 0);
}

TEST_F(AgentClientTest, GarbageEndsTheConnection) {
  say("{\"id\":");
  EXPECT_TRUE(closed_);
}

TEST_F(AgentClientTest, AFrameThatIsTooLongEndsTheConnectionUnread) {
  const uint32_t size = protocol::kMaxReplyBytes + 1;
  const std::string header(reinterpret_cast<const char*>(&size), sizeof size);
  ASSERT_TRUE(send_with_fds(agent_.get(), header, {}));
  spin();
  ASSERT_TRUE(closed_);
  EXPECT_NE(closed_->find("too long"), std::string::npos);
}

TEST_F(AgentClientTest, TheEndOfTheConnectionAnswersWhatIsPending) {
  greet();
  std::optional<Error> error;
  client_->request("start", Json::object(), 0, [&](const Result<Json>& r) { error = r.error(); });
  agent_.reset();
  spin();
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind, ErrorKind::kUnavailable);
  EXPECT_TRUE(closed_);
  client_->request("pause", Json::object(), 0, [&](const Result<Json>& r) { error = r.error(); });
  EXPECT_EQ(error->kind, ErrorKind::kUnavailable);
}

TEST_F(AgentClientTest, ExitEventsArrive) {
  greet();
  protocol::ExitEvent event;
  event.container_id = "c1";
  event.signal = 9;
  event.oom_killed = true;
  say(protocol::encode(protocol::Event{"exit", protocol::to_json(event)}));
  ASSERT_TRUE(exit_);
  EXPECT_EQ(exit_->signal, 9);
  EXPECT_TRUE(exit_->oom_killed);
}

}  // namespace
}  // namespace kiln::runtime
