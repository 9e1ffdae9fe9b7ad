// SPDX-License-Identifier: Apache-2.0
#include "base/acceptor.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <vector>

#include "base/temporary_directory.h"
#include "base/unix_socket.h"

namespace kiln {
namespace {

class AcceptorTest : public testing::Test {
 protected:
  void SetUp() override {
    acceptor_ = *Acceptor::create(
        *loop_, *listen_unix(path_, SOCK_STREAM | SOCK_NONBLOCK),
        [this](UniqueFd connection) { taken_.push_back(std::move(connection)); },
        [this](const Error&) { ++errors_; });
  }
  void turn(int times) {
    for (int i = 0; i < times; ++i) ASSERT_TRUE(loop_->run_once(1));
  }
  void connect(int clients) {
    for (int i = 0; i < clients; ++i) clients_.push_back(*connect_unix(path_));
  }

  TemporaryDirectory directory_ = *TemporaryDirectory::create(testing::TempDir(), "acceptor-");
  std::string path_ = directory_.path() + "/s";
  std::unique_ptr<EventLoop> loop_ = *EventLoop::create();
  std::vector<UniqueFd> clients_;
  std::vector<UniqueFd> taken_;
  int errors_ = 0;
  std::unique_ptr<Acceptor> acceptor_;
};

TEST_F(AcceptorTest, TakesAFewATurn) {
  connect(40);
  turn(1);
  EXPECT_GT(taken_.size(), 0U);
  EXPECT_LT(taken_.size(), 40U);
  turn(3);
  EXPECT_EQ(taken_.size(), 40U);
  EXPECT_NE(fcntl(taken_[0].get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST_F(AcceptorTest, TakesWhoWaitsWithoutATurn) {
  connect(40);
  acceptor_->accept_waiting();
  EXPECT_EQ(taken_.size(), 40U);
}

TEST_F(AcceptorTest, PausesWhileThereAreNoDescriptors) {
  connect(1);
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlimit none{3, limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  turn(20);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_EQ(errors_, 1);
  EXPECT_TRUE(taken_.empty());
  for (int i = 0; i < 1000 && taken_.empty(); ++i) turn(1);
  EXPECT_EQ(taken_.size(), 1U);
}

}  // namespace
}  // namespace kiln
