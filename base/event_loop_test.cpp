// SPDX-License-Identifier: Apache-2.0
#include "base/event_loop.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "base/file.h"
#include "base/unix_socket.h"

namespace kiln {
namespace {

class EventLoopTest : public ::testing::Test {
 protected:
  std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
};

TEST_F(EventLoopTest, ReadableDescriptorCallsBack) {
  auto [here, there] = *socket_pair(SOCK_STREAM);
  uint32_t seen = 0;
  ASSERT_TRUE(loop->add_fd(here.get(), EPOLLIN, [&](uint32_t events) {
    seen = events;
    loop->stop();
  }));
  ASSERT_TRUE(write_fully(there.get(), "x"));
  ASSERT_TRUE(loop->run());
  EXPECT_EQ(seen, static_cast<uint32_t>(EPOLLIN));
}

TEST_F(EventLoopTest, SourceRemovedInTheSameBatchIsNotCalled) {
  auto [first, first_peer] = *socket_pair(SOCK_STREAM);
  auto [second, second_peer] = *socket_pair(SOCK_STREAM);
  int calls = 0;
  const auto remove_both = [&, a = first.get(), b = second.get()](uint32_t) {
    ++calls;
    loop->remove_fd(a);
    loop->remove_fd(b);
  };
  ASSERT_TRUE(loop->add_fd(first.get(), EPOLLIN, remove_both));
  ASSERT_TRUE(loop->add_fd(second.get(), EPOLLIN, remove_both));
  ASSERT_TRUE(write_fully(first_peer.get(), "x"));
  ASSERT_TRUE(write_fully(second_peer.get(), "x"));
  ASSERT_TRUE(loop->run_once(1000));
  EXPECT_EQ(calls, 1);
}

TEST_F(EventLoopTest, EventOfAReusedDescriptorNumberIsDropped) {
  auto [first, first_peer] = *socket_pair(SOCK_STREAM);
  auto [second, second_peer] = *socket_pair(SOCK_STREAM);
  int stale = 0;
  const auto replace = [&](UniqueFd& victim) {
    const int number = victim.get();
    loop->remove_fd(number);
    victim.reset();
    ASSERT_EQ(dup2(STDERR_FILENO, number), number);
    victim.reset(number);
    ASSERT_TRUE(loop->add_fd(number, EPOLLIN, [&](uint32_t) { ++stale; }).has_value() || true);
  };
  ASSERT_TRUE(
      loop->add_fd(first.get(), EPOLLIN, [&, &other = second](uint32_t) { replace(other); }));
  ASSERT_TRUE(
      loop->add_fd(second.get(), EPOLLIN, [&, &other = first](uint32_t) { replace(other); }));
  ASSERT_TRUE(write_fully(first_peer.get(), "x"));
  ASSERT_TRUE(write_fully(second_peer.get(), "x"));
  ASSERT_TRUE(loop->run_once(1000));
  EXPECT_EQ(stale, 0);
}

TEST_F(EventLoopTest, TimersFireInOrderAndCancelledOnesDoNot) {
  std::string order;
  loop->add_timer(20, [&] { loop->stop(); });
  loop->add_timer(2, [&] { order += 'b'; });
  loop->add_timer(0, [&] { order += 'a'; });
  loop->cancel_timer(loop->add_timer(1, [&] { order += 'x'; }));
  ASSERT_TRUE(loop->run());
  EXPECT_EQ(order, "ab");
}

TEST_F(EventLoopTest, DeferredWorkRunsWithoutWaiting) {
  bool ran = false;
  loop->defer([&] { ran = true; });
  ASSERT_TRUE(loop->run_once(10'000));
  EXPECT_TRUE(ran);
}

TEST_F(EventLoopTest, SignalArrivesAsAnEvent) {
  uint32_t number = 0;
  ASSERT_TRUE(loop->handle_signals({SIGUSR2}, [&](const ::signalfd_siginfo& info) {
    number = info.ssi_signo;
    loop->stop();
  }));
  ASSERT_EQ(raise(SIGUSR2), 0);
  ASSERT_TRUE(loop->run());
  EXPECT_EQ(number, static_cast<uint32_t>(SIGUSR2));
}

}  // namespace
}  // namespace kiln
