// SPDX-License-Identifier: Apache-2.0
#include "agent/core/passed_fds.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>

#include "agent/container/container.h"
#include "agent/core/fake_guest.h"

namespace kiln::agent {
namespace {

using protocol::Passed;

std::string read_all(int fd) {
  std::string out;
  std::array<char, 4096> buffer;
  ssize_t got = 0;
  while ((got = read(fd, buffer.data(), buffer.size())) > 0)
    out.append(buffer.data(), static_cast<size_t>(got));
  return out;
}

TEST(PassedFds, AListenerTakesManyConnections) {
  std::vector<UniqueFd> theirs;
  auto ours = PassedFds::create({Passed::kListener}, theirs);
  ASSERT_TRUE(ours) << ours.error().message;
  ASSERT_EQ(theirs.size(), 1U);
  EXPECT_GE(theirs[0].get(), kAbovePassed);
  EXPECT_TRUE(ours->all_taken());
  for (const char* text : {"one", "two"}) {
    StreamEnds ends = *ours->take(0);
    EXPECT_TRUE(ends.duplex);
    const UniqueFd accepted(accept4(theirs[0].get(), nullptr, nullptr, SOCK_CLOEXEC));
    ASSERT_TRUE(accepted);
    ASSERT_EQ(write(ends.to_process.get(), text, 3), 3);
    shutdown(ends.to_process.get(), SHUT_WR);
    EXPECT_EQ(read_all(accepted.get()), text);
  }
}

TEST(PassedFds, AListenerThatIsClosedRefuses) {
  std::vector<UniqueFd> theirs;
  auto ours = PassedFds::create({Passed::kListener}, theirs);
  ASSERT_TRUE(ours);
  theirs.clear();
  const auto refused = ours->take(0);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().sys_errno, ECONNREFUSED);
}

TEST(PassedFds, TheOthersAreTakenOnce) {
  std::vector<UniqueFd> theirs;
  auto ours = PassedFds::create({Passed::kSocket, Passed::kReader, Passed::kWriter}, theirs);
  ASSERT_TRUE(ours);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_FALSE(ours->all_taken());
    ASSERT_TRUE(ours->take(i)) << i;
    EXPECT_EQ(ours->take(i).error().kind, ErrorKind::kAlreadyExists) << i;
  }
  EXPECT_TRUE(ours->all_taken());
  EXPECT_EQ(ours->take(3).error().kind, ErrorKind::kNotFound);
}

class PassedStreamsTest : public ServerTest {
 protected:
  static void put(const UniqueFd& connection, std::string_view bytes) {
    ASSERT_EQ(::send(connection.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
};

// Each direction of a socket ends by itself.
TEST_F(PassedStreamsTest, ASocketIsAnsweredAfterItsPeerHasHalfClosed) {
  run("cat <&3; echo end >&3", false, {Passed::kSocket});
  const UniqueFd output = dial("stdout");
  const UniqueFd stream = dial("fd:3");
  put(stream, "asked\n");
  shutdown(stream.get(), SHUT_WR);
  EXPECT_EQ(drain(stream), "end\n");
  EXPECT_EQ(drain(output), "asked\n");
}

TEST_F(PassedStreamsTest, PipesHaveTheirDirectionAndTheirNumber) {
  run("cat <&4 >&3", false, {Passed::kWriter, Passed::kReader});
  const UniqueFd input = dial("fd:4");
  const UniqueFd output = dial("fd:3");
  put(input, "through");
  shutdown(input.get(), SHUT_WR);
  EXPECT_EQ(drain(output), "through");
}

TEST_F(PassedStreamsTest, WhatIsNotPassedIsNoStream) {
  run("sleep 100", false, {Passed::kWriter});
  for (const char* stream : {"fd:4", "fd:34"}) {
    std::optional<Error> refusal;
    dial(stream, "", &refusal);
    ASSERT_TRUE(refusal) << stream;
    EXPECT_EQ(refusal->kind, ErrorKind::kNotFound) << stream;
  }
  for (const char* stream : {"fd:2", "fd:35", "fd:", "fd:3x", "fd:-1"}) {
    std::optional<Error> refusal;
    dial(stream, "", &refusal);
    ASSERT_TRUE(refusal) << stream;
    EXPECT_EQ(refusal->kind, ErrorKind::kInvalidArgument) << stream;
  }
}

TEST_F(PassedStreamsTest, ATerminalHasThemToo) {
  run("echo at fd >&3; echo at tty", true, {Passed::kSocket});
  EXPECT_EQ(drain(dial("fd:3")), "at fd\n");
  EXPECT_EQ(drain(dial("tty")), "at tty\r\n");
}

TEST_F(PassedStreamsTest, NotificationsAreAMountOfTheirOwn) {
  notify_mount_ = 1;
  run("sleep 100");
  ASSERT_EQ(state_.bind_sources.size(), 1U);
  EXPECT_EQ(access((state_.bind_sources.at(1) + "/notify.sock").c_str(), F_OK), 0);
  const std::string directory = state_.bind_sources.at(1);
  server_.reset();
  EXPECT_NE(access(directory.c_str(), F_OK), 0);
}

TEST_F(PassedStreamsTest, NotificationsNeedAMount) {
  adopt();
  notify_mount_ = 1000;
  EXPECT_EQ(kind_of(create("true")), ErrorKind::kInvalidArgument);
}

}  // namespace
}  // namespace kiln::agent
