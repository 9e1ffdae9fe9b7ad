// SPDX-License-Identifier: Apache-2.0
#include "runtime/pausing_agent.h"

#include <gtest/gtest.h>

#include <csignal>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

namespace kiln::runtime {
namespace {

constexpr int64_t kSettleMs = 5;

// Remembers what it is asked for; the test answers.
class RecordingAgent : public Agent {
 public:
  void request(const std::string& method, Json /*params*/, int64_t /*timeout_ms*/,
               RpcClient::ReplyCallback callback) override {
    asked.emplace_back(method, std::move(callback));
  }
  std::vector<std::pair<std::string, RpcClient::ReplyCallback>> asked;
};

class PausingAgentTest : public testing::Test {
 protected:
  void SetUp() override {
    loop_ = std::move(*EventLoop::create());
    pausing_ = std::make_unique<PausingAgent>(
        *loop_, agent_,
        PausingAgent::Machine{[this] { return pause_outcome_ ? log("pause") : failed(); },
                              [this] { return log("resume"); }},
        kSettleMs);
  }
  Result<void> log(const char* what) {
    machine_.emplace_back(what);
    return {};
  }
  static Result<void> failed() { return make_error(ErrorKind::kUnavailable, "no machine"); }
  // Leaves the request open.
  void begin(const std::string& method, const std::string& id, Json params = Json::object()) {
    params["container"] = id;
    pausing_->request(method, std::move(params), 0, [](const Result<Json>&) {});
  }
  void answer(Result<Json> result = Json::object()) {
    const auto callback = std::move(agent_.asked.back().second);
    agent_.asked.pop_back();
    callback(std::move(result));
  }
  void ask(const std::string& method, const std::string& id) {
    begin(method, id);
    answer();
  }
  void kill(const std::string& id, const std::string& process = "") {
    begin("signal", id, {{"process", process}, {"signal", SIGKILL}});
  }
  // Until the guest has been asked, if it is.
  void wait_for_settle() {
    settled_ = false;
    loop_->add_timer(4 * kSettleMs, [this] { settled_ = true; });
    while (!settled_) ASSERT_TRUE(loop_->run_once(-1));
  }
  void settle() {
    wait_for_settle();
    if (!agent_.asked.empty() && agent_.asked.back().first == "settle") answer();
  }
  std::vector<std::string> seen() { return std::exchange(machine_, {}); }
  using Seen = std::vector<std::string>;

  std::unique_ptr<EventLoop> loop_;
  RecordingAgent agent_;
  std::vector<std::string> machine_;
  bool pause_outcome_ = true;
  bool settled_ = false;
  std::unique_ptr<PausingAgent> pausing_;
};

TEST_F(PausingAgentTest, PausesTheMachineOfAFrozenContainer) {
  ask("create", "c");
  settle();
  EXPECT_EQ(seen(), Seen{});
  ask("pause", "c");
  EXPECT_EQ(seen(), Seen{});
  settle();
  EXPECT_EQ(seen(), Seen{"pause"});
}

TEST_F(PausingAgentTest, ResumesForGoodWhenTheContainerThaws) {
  ask("create", "c");
  ask("pause", "c");
  settle();
  ask("resume", "c");
  settle();
  EXPECT_EQ(seen(), (Seen{"pause", "resume"}));
}

TEST_F(PausingAgentTest, StaysAwakeWhileSomethingIsAsked) {
  ask("create", "c");
  ask("pause", "c");
  settle();
  begin("stats", "c");
  settle();
  EXPECT_EQ(seen(), (Seen{"pause", "resume"}));
  answer();
  settle();
  EXPECT_EQ(seen(), Seen{"pause"});
}

TEST_F(PausingAgentTest, CorrectsTheClockBeforeAnythingElse) {
  ask("create", "c");
  ask("pause", "c");
  settle();
  begin("resume", "c");
  ASSERT_EQ(agent_.asked.size(), 2U);
  EXPECT_EQ(agent_.asked[0].first, "clock");
  EXPECT_EQ(agent_.asked[1].first, "resume");
}

TEST_F(PausingAgentTest, PausesAgainWhenAThawFails) {
  ask("create", "c");
  ask("pause", "c");
  settle();
  begin("resume", "c");
  answer(make_error(ErrorKind::kDeadlineExceeded, "not done"));
  settle();
  EXPECT_EQ(seen(), (Seen{"pause", "resume", "pause"}));
}

TEST_F(PausingAgentTest, DoesNotPauseWhatHasBeenAskedForSomethingElseMeanwhile) {
  ask("create", "c");
  ask("pause", "c");
  wait_for_settle();
  ASSERT_EQ(agent_.asked.back().first, "settle");
  const auto settled = std::move(agent_.asked.back().second);
  agent_.asked.pop_back();
  ask("resume", "c");
  settled(Json::object());
  EXPECT_EQ(seen(), Seen{});
}

TEST_F(PausingAgentTest, PausesAGuestThatDoesNotSettle) {
  ask("create", "c");
  ask("pause", "c");
  wait_for_settle();
  answer(make_error(ErrorKind::kDeadlineExceeded, "no answer"));
  EXPECT_EQ(seen(), Seen{"pause"});
}

TEST_F(PausingAgentTest, OneThatIsNotFrozenKeepsAllAwake) {
  ask("create", "one");
  ask("create", "two");
  ask("pause", "one");
  settle();
  EXPECT_EQ(seen(), Seen{});
  ask("pause", "two");
  settle();
  EXPECT_EQ(seen(), Seen{"pause"});
}

TEST_F(PausingAgentTest, OneThatHasEndedKeepsNobodyAwake) {
  ask("create", "one");
  ask("create", "two");
  ask("pause", "one");
  pausing_->note_exit({.container_id = "two"});
  settle();
  EXPECT_EQ(seen(), Seen{"pause"});
}

TEST_F(PausingAgentTest, ANewContainerWakesAll) {
  ask("create", "one");
  ask("pause", "one");
  settle();
  ask("create", "two");
  settle();
  EXPECT_EQ(seen(), (Seen{"pause", "resume"}));
}

TEST_F(PausingAgentTest, AFailedCreateLeavesThemAsleep) {
  ask("create", "one");
  ask("pause", "one");
  settle();
  begin("create", "two");
  answer(make_error(ErrorKind::kNotFound, "no such file"));
  settle();
  EXPECT_EQ(seen(), (Seen{"pause", "resume", "pause"}));
}

TEST_F(PausingAgentTest, StaysAwakeUntilTheEndOfAKilledContainerIsTold) {
  ask("create", "one");
  ask("create", "two");
  ask("pause", "one");
  ask("pause", "two");
  settle();
  kill("two");
  answer();
  settle();
  EXPECT_EQ(seen(), (Seen{"pause", "resume"}));
  pausing_->note_exit({.container_id = "two"});
  settle();
  EXPECT_EQ(seen(), Seen{"pause"});
}

TEST_F(PausingAgentTest, StaysAwakeUntilTheEndOfAKilledProcessIsTold) {
  ask("create", "c");
  ask("pause", "c");
  settle();
  kill("c", "exec-1");
  answer();
  settle();
  EXPECT_EQ(seen(), (Seen{"pause", "resume"}));
  pausing_->note_exit({.container_id = "c", .process_id = "exec-1"});
  settle();
  EXPECT_EQ(seen(), Seen{"pause"});
}

TEST_F(PausingAgentTest, PausesAgainWhenAKillIsRefused) {
  ask("create", "c");
  ask("pause", "c");
  settle();
  kill("c", "exec-1");
  answer(make_error(ErrorKind::kNotFound, "no process"));
  settle();
  EXPECT_EQ(seen(), (Seen{"pause", "resume", "pause"}));
}

TEST_F(PausingAgentTest, AMachineThatCannotPauseGoesOn) {
  pause_outcome_ = false;
  ask("create", "c");
  ask("pause", "c");
  settle();
  ask("resume", "c");
  EXPECT_EQ(seen(), Seen{});
}

TEST_F(PausingAgentTest, LeavesTheMachineAloneOnceRetired) {
  ask("create", "c");
  ask("pause", "c");
  pausing_->retire();
  settle();
  EXPECT_EQ(seen(), Seen{});
}

TEST_F(PausingAgentTest, AnswersAfterItsEnd) {
  bool answered = false;
  pausing_->request("stats", {{"container", "c"}}, 0,
                    [&](const Result<Json>&) { answered = true; });
  pausing_.reset();
  answer();
  EXPECT_TRUE(answered);
}

}  // namespace
}  // namespace kiln::runtime
