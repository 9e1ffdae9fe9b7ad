// SPDX-License-Identifier: Apache-2.0
#include "agent/container/child_channel.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

namespace kiln::agent {
namespace {

struct Ends {
  ChildChannel agent;
  ChildChannel child;
};

Ends make_ends() {
  auto ends = ChildChannel::create();
  return {std::move(ends->first), std::move(ends->second)};
}

TEST(ChildChannel, CarriesAPid) {
  const Ends ends = make_ends();
  ASSERT_TRUE(ends.child.say_pid(1234));
  const auto message = ends.agent.receive(1000);
  ASSERT_TRUE(message);
  EXPECT_EQ(message->what, ChildSays::kPid);
  EXPECT_EQ(message->pid, 1234);
}

TEST(ChildChannel, CarriesADescriptor) {
  const Ends ends = make_ends();
  ASSERT_TRUE(ends.child.say(ChildSays::kReady, STDIN_FILENO));
  const auto message = ends.agent.receive(1000);
  ASSERT_TRUE(message);
  EXPECT_EQ(message->what, ChildSays::kReady);
  EXPECT_TRUE(message->fd);
  EXPECT_EQ(fcntl(message->fd.get(), F_GETFD), FD_CLOEXEC);
}

TEST(ChildChannel, CarriesAnError) {
  const Ends ends = make_ends();
  ends.child.say_error({ErrorKind::kNotFound, ENOENT, "open `x`: gone"});
  const auto message = ends.agent.receive(1000);
  ASSERT_TRUE(message);
  EXPECT_EQ(message->what, ChildSays::kFailed);
  EXPECT_EQ(message->error.kind, ErrorKind::kNotFound);
  EXPECT_EQ(message->error.sys_errno, ENOENT);
  EXPECT_EQ(message->error.message, "open `x`: gone");
}

TEST(ChildChannel, LongErrorIsCut) {
  const Ends ends = make_ends();
  ends.child.say_error({ErrorKind::kInternal, 0, std::string(100'000, 'x')});
  const auto message = ends.agent.receive(1000);
  ASSERT_TRUE(message);
  EXPECT_EQ(message->error.message, std::string(4096, 'x'));
}

TEST(ChildChannel, ClosedEndIsAMessage) {
  Ends ends = make_ends();
  ends.child.close();
  const auto message = ends.agent.receive(1000);
  ASSERT_TRUE(message);
  EXPECT_EQ(message->what, ChildSays::kClosed);
}

TEST(ChildChannel, SilentChildRunsIntoTheDeadline) {
  const Ends ends = make_ends();
  const auto message = ends.agent.receive(10);
  ASSERT_FALSE(message);
  EXPECT_EQ(message.error().kind, ErrorKind::kDeadlineExceeded);
}

TEST(ChildChannel, NonsenseIsAnError) {
  for (const std::string& bytes : {std::string("?"), std::string("p1"), std::string("e"),
                                   std::string(1, '\0'), std::string("e\1\0\0\0", 5)}) {
    const Ends ends = make_ends();
    ASSERT_EQ(send(ends.child.fd(), bytes.data(), bytes.size(), 0),
              static_cast<ssize_t>(bytes.size()));
    EXPECT_FALSE(ends.agent.receive(1000)) << bytes;
  }
}

TEST(ChildChannel, UnknownKindOfErrorIsUnknown) {
  const Ends ends = make_ends();
  ends.child.say_error({static_cast<ErrorKind>(999), 0, "x"});
  const auto message = ends.agent.receive(1000);
  ASSERT_TRUE(message);
  EXPECT_EQ(message->error.kind, ErrorKind::kUnknown);
}

TEST(ChildChannel, ChildWaitsForTheAgent) {
  Ends ends = make_ends();
  ASSERT_TRUE(ends.agent.go_on());
  EXPECT_TRUE(ends.child.wait_for_agent());
  ends.agent.close();
  EXPECT_FALSE(ends.child.wait_for_agent());
}

}  // namespace
}  // namespace kiln::agent
