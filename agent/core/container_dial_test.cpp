// SPDX-License-Identifier: Apache-2.0
#include "agent/core/container_dial.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <optional>

#include "base/file.h"
#include "base/temporary_directory.h"
#include "base/unix_socket.h"

namespace kiln::agent {
namespace {

class ContainerDialTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(loop_->handle_signals({SIGCHLD}, [this](const auto&) { reaper_.reap(); }));
  }
  // What came of it; the child has ended by then.
  Result<UniqueFd> dial(const std::string& path) {
    bool gone = false;
    Result<UniqueFd> outcome = UniqueFd();
    const auto dial = ContainerDial::start(
        {*loop_, reaper_, 5000}, root_.get(), path,
        {[&](Result<UniqueFd> socket) { outcome = std::move(socket); }, [&] { gone = true; }});
    EXPECT_TRUE(dial);
    for (int i = 0; i < 1000 && !gone; ++i) static_cast<void>(loop_->run_once(10));
    EXPECT_TRUE(gone);
    return outcome;
  }
  int errno_of(const std::string& path) {
    const auto outcome = dial(path);
    return outcome ? 0 : outcome.error().sys_errno;
  }

  TemporaryDirectory directory_ = *TemporaryDirectory::create(testing::TempDir(), "dial-");
  UniqueFd root_ = *open_file(directory_.path(), O_PATH | O_DIRECTORY);
  std::unique_ptr<EventLoop> loop_ = *EventLoop::create();
  Reaper reaper_;
};

TEST_F(ContainerDialTest, ConnectsBelowTheRootWithoutBlocking) {
  const UniqueFd server = *listen_unix(directory_.path() + "/s");
  std::filesystem::create_symlink("/../s", directory_.path() + "/link");
  const auto socket = dial("/link");
  ASSERT_TRUE(socket) << socket.error().message;
  EXPECT_NE(fcntl(socket->get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_NE(fcntl(socket->get(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_TRUE(accept_unix(server.get()));
}

TEST_F(ContainerDialTest, SaysWhyThereIsNobody) {
  std::ofstream(directory_.path() + "/file") << "x";
  ASSERT_EQ(mkfifo((directory_.path() + "/fifo").c_str(), 0600), 0);
  { const UniqueFd dead = *listen_unix(directory_.path() + "/dead"); }
  EXPECT_EQ(errno_of("/lost"), ENOENT);
  EXPECT_EQ(errno_of("/file"), ECONNREFUSED);
  EXPECT_EQ(errno_of("/fifo"), ECONNREFUSED);
  EXPECT_EQ(errno_of("/dead"), ECONNREFUSED);
}

TEST_F(ContainerDialTest, LeavesTheRootByNoSymbolicLink) {
  TemporaryDirectory outside = *TemporaryDirectory::create(testing::TempDir(), "outside-");
  const UniqueFd server = *listen_unix(outside.path() + "/s");
  std::filesystem::create_symlink(outside.path() + "/s", directory_.path() + "/link");
  EXPECT_EQ(errno_of("/link"), ENOENT);
}

TEST_F(ContainerDialTest, DoesNotWaitForRoomInABacklog) {
  const UniqueFd server = *listen_unix(directory_.path() + "/s");
  ASSERT_EQ(listen(server.get(), 0), 0);
  const UniqueFd first = *connect_unix(directory_.path() + "/s");
  EXPECT_EQ(errno_of("/s"), EAGAIN);
}

TEST_F(ContainerDialTest, GivesUpWithoutCallingBack) {
  bool called = false;
  {
    const auto dial = ContainerDial::start(
        {*loop_, reaper_, 5000}, root_.get(), "/lost",
        {[&](const Result<UniqueFd>&) { called = true; }, [&] { called = true; }});
    ASSERT_TRUE(dial);
  }
  for (int i = 0; i < 20; ++i) static_cast<void>(loop_->run_once(5));
  EXPECT_FALSE(called);
}

}  // namespace
}  // namespace kiln::agent
