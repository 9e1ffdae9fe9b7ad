// SPDX-License-Identifier: Apache-2.0
#include "runtime/forward_relay.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/file.h"
#include "base/format.h"
#include "base/temporary_directory.h"
#include "base/unix_socket.h"
#include "tests/support/socket_reading.h"

namespace kiln::runtime {
namespace {

// The test is the guest, which dials, and the host's server.
class ForwardRelayTest : public testing::Test {
 protected:
  void SetUp() override {
    server_ = *listen_unix(path_, SOCK_STREAM | SOCK_NONBLOCK);
    relay_ = make();
  }
  std::unique_ptr<ForwardRelay> make() {
    std::vector<ForwardRelay::Target> targets;
    targets.push_back({"/s", *open_file(path_, O_PATH)});
    auto made = ForwardRelay::listen(*loop_, vsock_path_, std::move(targets));
    EXPECT_TRUE(made) << made.error().message;
    return std::move(*made);
  }
  UniqueFd dial(std::string_view first) {
    UniqueFd fd = *connect_unix(fmt::format("{}_{}", vsock_path_, relay_->port()));
    put(fd, first);
    return fd;
  }
  UniqueFd accept() {
    for (int i = 0; i < 200; ++i) {
      static_cast<void>(loop_->run_once(10));
      UniqueFd fd(accept4(server_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (fd) return fd;
    }
    return {};
  }
  static void put(const UniqueFd& fd, std::string_view text) {
    if (text.empty()) return;
    ASSERT_EQ(send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }
  void turn(int times = 20) {
    for (int i = 0; i < times; ++i) ASSERT_TRUE(loop_->run_once(1));
  }
  std::string take(const UniqueFd& fd, size_t size) { return take_bytes(*loop_, fd, size); }
  // Turns the loop until the other end has closed it.
  bool ends(const UniqueFd& fd) {
    char byte = 0;
    for (int i = 0; i < 200; ++i) {
      static_cast<void>(loop_->run_once(10));
      const ssize_t got = recv(fd.get(), &byte, 1, MSG_DONTWAIT);
      if (got == 0 || (got < 0 && errno == ECONNRESET)) return true;
    }
    return false;
  }

  TemporaryDirectory directory_ = *TemporaryDirectory::create(testing::TempDir(), "forward-");
  std::string path_ = directory_.path() + "/server";
  std::string vsock_path_ = directory_.path() + "/vsock";
  std::unique_ptr<EventLoop> loop_ = *EventLoop::create();
  UniqueFd server_;
  std::unique_ptr<ForwardRelay> relay_;
};

TEST_F(ForwardRelayTest, CarriesBothWaysAndHalfCloses) {
  const UniqueFd guest = dial(relay_->token(0) + "question");
  const UniqueFd host = accept();
  EXPECT_EQ(take(host, 8), "question");
  EXPECT_FALSE(relay_->guest_has_ended());
  shutdown(guest.get(), SHUT_WR);
  EXPECT_EQ(take(host, 1), "");
  EXPECT_TRUE(relay_->guest_has_ended());
  put(host, "answer");
  EXPECT_EQ(take(guest, 6), "answer");
  shutdown(host.get(), SHUT_WR);
  EXPECT_TRUE(ends(guest));
  EXPECT_EQ(relay_->connections(), 0U);
}

TEST_F(ForwardRelayTest, TakesATokenInPieces) {
  const UniqueFd guest = dial(relay_->token(0).substr(0, 5));
  turn();
  put(guest, relay_->token(0).substr(5));
  put(guest, "x");
  EXPECT_EQ(take(accept(), 1), "x");
}

TEST_F(ForwardRelayTest, EndsWhoDoesNotKnowTheToken) {
  EXPECT_TRUE(ends(dial(std::string(32, '0'))));
  EXPECT_EQ(relay_->connections(), 0U);
}

TEST_F(ForwardRelayTest, OfTheSilentTheNewestStay) {
  std::vector<UniqueFd> silent;
  for (size_t i = 0; i < ForwardRelay::kMaxNameless + 10; ++i) {
    silent.push_back(dial(""));
    turn(2);
  }
  EXPECT_EQ(relay_->connections(), ForwardRelay::kMaxNameless);
  EXPECT_TRUE(ends(silent.front()));
  put(silent.back(), relay_->token(0));
  EXPECT_TRUE(accept());
}

TEST_F(ForwardRelayTest, HasABoundOfConnections) {
  std::vector<UniqueFd> kept;
  for (size_t i = 0; i < ForwardRelay::kMaxConnections; ++i) {
    kept.push_back(dial(relay_->token(0)));
    kept.push_back(accept());
    ASSERT_TRUE(kept.back());
  }
  EXPECT_TRUE(ends(dial(relay_->token(0))));
  kept.erase(kept.begin(), kept.begin() + 2);
  turn();
  const UniqueFd guest = dial(relay_->token(0));
  EXPECT_TRUE(accept());
}

TEST_F(ForwardRelayTest, ReachesTheSocketOfTheBeginningAlone) {
  ASSERT_EQ(unlink(path_.c_str()), 0);
  const UniqueFd other = *listen_unix(path_);
  const UniqueFd guest = dial(relay_->token(0));
  EXPECT_TRUE(accept());
}

TEST_F(ForwardRelayTest, EndsTheGuestsConnectionWhenTheServerIsGone) {
  server_.reset();
  EXPECT_TRUE(ends(dial(relay_->token(0))));
}

TEST_F(ForwardRelayTest, EachHasAPortAndTakesItsFileAway) {
  auto second = make();
  EXPECT_NE(second->port(), relay_->port());
  EXPECT_NE(second->token(0), relay_->token(0));
  const std::string file = fmt::format("{}_{}", vsock_path_, second->port());
  EXPECT_EQ(access(file.c_str(), F_OK), 0);
  second.reset();
  EXPECT_NE(access(file.c_str(), F_OK), 0);
}

}  // namespace
}  // namespace kiln::runtime
