// SPDX-License-Identifier: Apache-2.0
#include "vmm/qemu/qmp_client.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <array>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/file.h"
#include "base/unix_socket.h"

namespace kiln::vmm {
namespace {

// A client whose QEMU is the test.
class QmpClientTest : public ::testing::Test {
 protected:
  void SetUp() override {
    loop_ = std::move(*EventLoop::create());
    auto [here, there] = std::move(*socket_pair(SOCK_STREAM));
    qemu_ = std::move(there);
    fcntl(qemu_.get(), F_SETFL, O_NONBLOCK);
    QmpClient::Callbacks callbacks;
    callbacks.on_ready = [this] { ready_ = true; };
    callbacks.on_event = [this](const std::string& name, const Json& data) {
      events_.push_back(name + " " + data.dump());
    };
    callbacks.on_closed = [this] { ++closed_; };
    client_ = std::move(*QmpClient::create(*loop_, std::move(here), std::move(callbacks)));
  }

  void say(const std::string& text) {
    ASSERT_TRUE(write_fully(qemu_.get(), text));
    run();
  }
  void run() {
    for (int i = 0; i < 5; ++i) ASSERT_TRUE(loop_->run_once(0));
  }
  std::string heard() {
    std::array<char, 4096> buffer{};
    const ssize_t got = read(qemu_.get(), buffer.data(), buffer.size());
    return got > 0 ? std::string(buffer.data(), static_cast<size_t>(got)) : std::string();
  }

  std::unique_ptr<EventLoop> loop_;
  UniqueFd qemu_;
  std::unique_ptr<QmpClient> client_;
  bool ready_ = false;
  std::vector<std::string> events_;
  int closed_ = 0;
};

TEST_F(QmpClientTest, IsReadyOnceTheCapabilitiesAreAnswered) {
  EXPECT_EQ(heard(), "{\"execute\":\"qmp_capabilities\",\"id\":1}\n");
  say("{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n");
  EXPECT_FALSE(ready_);
  say("{\"return\": {}, \"id\": 1}\r\n");
  EXPECT_TRUE(ready_);
}

TEST_F(QmpClientTest, ReportsEventsWithTheirData) {
  say("{\"event\": \"SHUTDOWN\", \"data\": {\"reason\": \"guest-reset\"}}\n{\"event\": "
      "\"RESET\"}\n");
  ASSERT_EQ(events_.size(), 2U);
  EXPECT_EQ(events_[0], "SHUTDOWN {\"reason\":\"guest-reset\"}");
  EXPECT_EQ(events_[1], "RESET {}");
}

TEST_F(QmpClientTest, PutsLinesTogetherThatComeInPieces) {
  say("{\"event\": \"ST");
  EXPECT_TRUE(events_.empty());
  say("OP\"}\n");
  EXPECT_EQ(events_, std::vector<std::string>{"STOP {}"});
}

TEST_F(QmpClientTest, GivesARefusalToItsCommand) {
  std::optional<Result<Json>> answer;
  client_->execute("cont", [&](Result<Json> result) { answer = std::move(result); });
  say("{\"id\": 2, \"error\": {\"class\": \"GenericError\", \"desc\": \"Resetting required\"}}\n");
  ASSERT_TRUE(answer);
  ASSERT_FALSE(*answer);
  EXPECT_EQ(answer->error().message, "Resetting required");
}

TEST_F(QmpClientTest, FailsWhatIsInFlightWhenQemuCloses) {
  std::optional<Result<Json>> answer;
  client_->execute("stop", [&](Result<Json> result) { answer = std::move(result); });
  qemu_.reset();
  run();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->error().kind, ErrorKind::kUnavailable);
  EXPECT_EQ(closed_, 1);
  EXPECT_FALSE(ready_);
}

TEST_F(QmpClientTest, ClosesOnWhatIsNotQmp) {
  say("qemu: fatal\n");
  EXPECT_EQ(closed_, 1);
}

TEST_F(QmpClientTest, ClosesOnALineWithoutEnd) {
  const std::string piece(4096, 'x');
  for (int i = 0; i < 1024 && closed_ == 0; ++i) {
    static_cast<void>(write(qemu_.get(), piece.data(), piece.size()));
    run();
  }
  EXPECT_EQ(closed_, 1);
}

TEST_F(QmpClientTest, RefusesCommandsAfterTheEnd) {
  qemu_.reset();
  run();
  std::optional<Result<Json>> answer;
  client_->execute("stop", [&](Result<Json> result) { answer = std::move(result); });
  ASSERT_TRUE(answer);
  EXPECT_FALSE(*answer);
}

}  // namespace
}  // namespace kiln::vmm
