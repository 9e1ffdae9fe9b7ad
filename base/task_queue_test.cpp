// SPDX-License-Identifier: Apache-2.0
#include "base/task_queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace kiln {
namespace {

TEST(TaskQueue, RunsWhatOtherThreadsPostInOrder) {
  const auto loop = EventLoop::create();
  ASSERT_TRUE(loop);
  const auto queue = TaskQueue::create(**loop);
  ASSERT_TRUE(queue);
  std::vector<int> order;
  std::thread poster([&] {
    for (int i = 0; i < 100; ++i) (*queue)->post([&, i] { order.push_back(i); });
    (*queue)->post([&] { (*loop)->stop(); });
  });
  ASSERT_TRUE((*loop)->run());
  poster.join();
  ASSERT_EQ(order.size(), 100U);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(TaskQueue, CallReturnsAfterTheTaskHasRun) {
  const auto loop = EventLoop::create();
  ASSERT_TRUE(loop);
  const auto queue = TaskQueue::create(**loop);
  ASSERT_TRUE(queue);
  const auto loop_thread = std::this_thread::get_id();
  std::thread::id ran_on;
  std::thread caller([&] {
    (*queue)->call([&] { ran_on = std::this_thread::get_id(); });
    EXPECT_EQ(ran_on, loop_thread);
    (*queue)->post([&] { (*loop)->stop(); });
  });
  ASSERT_TRUE((*loop)->run());
  caller.join();
}

TEST(TaskQueue, ATaskMayPostAnother) {
  const auto loop = EventLoop::create();
  ASSERT_TRUE(loop);
  const auto queue = TaskQueue::create(**loop);
  ASSERT_TRUE(queue);
  int runs = 0;
  (*queue)->post([&] {
    ++runs;
    (*queue)->post([&] {
      ++runs;
      (*loop)->stop();
    });
  });
  ASSERT_TRUE((*loop)->run());
  EXPECT_EQ(runs, 2);
}

TEST(TaskQueue, DropsWhatHasNotRunWhenItGoes) {
  const auto loop = EventLoop::create();
  ASSERT_TRUE(loop);
  bool ran = false;
  {
    const auto queue = TaskQueue::create(**loop);
    ASSERT_TRUE(queue);
    (*queue)->post([&] { ran = true; });
  }
  ASSERT_TRUE((*loop)->run_once(0));
  EXPECT_FALSE(ran);
}

}  // namespace
}  // namespace kiln
