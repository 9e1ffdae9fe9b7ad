// SPDX-License-Identifier: Apache-2.0
#include "agent/core/notify_socket.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "base/temporary_directory.h"

namespace kiln::agent {
namespace {

using Lines = std::vector<std::string>;

class NotifySocketTest : public testing::Test {
 protected:
  void SetUp() override {
    socket_ = *NotifySocket::create(*loop_, parent_.path(), "notify.sock",
                                    [this](Lines lines) { heard_.push_back(std::move(lines)); });
  }
  bool say(const std::string& text) const {
    const UniqueFd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string path = socket_->directory() + "/notify.sock";
    std::memcpy(address.sun_path, path.data(), path.size());
    return sendto(fd.get(), text.data(), text.size(), 0,
                  reinterpret_cast<const sockaddr*>(&address),
                  sizeof address) == static_cast<ssize_t>(text.size());
  }
  void turn() {
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(loop_->run_once(0));
  }

  TemporaryDirectory parent_ = *TemporaryDirectory::create(testing::TempDir(), "notify-");
  std::unique_ptr<EventLoop> loop_ = *EventLoop::create();
  std::vector<Lines> heard_;
  std::unique_ptr<NotifySocket> socket_;
};

TEST_F(NotifySocketTest, TellsTheLinesOfADatagram) {
  ASSERT_TRUE(say("READY=1\nSTATUS=up\n\n"));
  turn();
  EXPECT_EQ(heard_, (std::vector<Lines>{{"READY=1", "STATUS=up"}}));
}

TEST_F(NotifySocketTest, DropsWhatIsTooLongOrEmpty) {
  ASSERT_TRUE(say("STATUS=" + std::string(4096, 'x')));
  ASSERT_TRUE(say("\n\n"));
  ASSERT_TRUE(say(""));
  turn();
  EXPECT_TRUE(heard_.empty());
}

TEST_F(NotifySocketTest, SaysOfAFloodTheFirstAndThatItIsUp) {
  for (int i = 0; i < 300; ++i) {
    ASSERT_TRUE(say("STATUS=flood"));
    turn();
  }
  EXPECT_LT(heard_.size(), 100U);
  const size_t before = heard_.size();
  ASSERT_TRUE(say("STATUS=x\nREADY=1"));
  turn();
  EXPECT_EQ(heard_.size(), before + 1);
}

TEST_F(NotifySocketTest, IsForEverybodyAndLeavesNothing) {
  const std::string directory = socket_->directory();
  struct stat info {};
  ASSERT_EQ(stat((directory + "/notify.sock").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0777U);
  ASSERT_EQ(stat(directory.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0755U);
  socket_.reset();
  EXPECT_NE(access(directory.c_str(), F_OK), 0);
}

}  // namespace
}  // namespace kiln::agent
