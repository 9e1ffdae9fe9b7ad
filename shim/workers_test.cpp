// SPDX-License-Identifier: Apache-2.0
#include "shim/workers.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace kiln::shim {
namespace {

class WorkersTest : public testing::Test {
 protected:
  void run_until_idle() {
    for (int i = 0; i < 1000 && !workers_->idle(); ++i) ASSERT_TRUE(loop_->run_once(10));
    EXPECT_TRUE(workers_->idle());
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::create();
  std::unique_ptr<Workers> workers_ = *Workers::create(*loop_);
};

TEST_F(WorkersTest, TheJobHasItsOwnThreadAndDoneTheLoops) {
  const auto here = std::this_thread::get_id();
  std::thread::id job_thread;
  std::thread::id done_thread;
  int value = 0;
  workers_->run<int>(
      [&job_thread]() -> Result<int> {
        job_thread = std::this_thread::get_id();
        return 7;
      },
      [&](Result<int> result) {
        done_thread = std::this_thread::get_id();
        value = *result;
      });
  EXPECT_FALSE(workers_->idle());
  run_until_idle();
  EXPECT_EQ(value, 7);
  EXPECT_NE(job_thread, here);
  EXPECT_EQ(done_thread, here);
}

TEST_F(WorkersTest, ErrorsArrive) {
  std::string message;
  workers_->run<int>([]() -> Result<int> { return invalid_argument("bad"); },
                     [&](const Result<int>& result) { message = result.error().message; });
  run_until_idle();
  EXPECT_EQ(message, "bad");
}

TEST_F(WorkersTest, JobsDoNotWaitForEachOther) {
  std::atomic<int> met = 0;
  int done = 0;
  for (int i = 0; i < 4; ++i) {
    workers_->run<int>(
        [&met]() -> Result<int> {
          ++met;
          while (met < 4) std::this_thread::sleep_for(std::chrono::milliseconds(1));
          return 0;
        },
        [&](const Result<int>&) { ++done; });
  }
  run_until_idle();
  EXPECT_EQ(done, 4);
}

TEST_F(WorkersTest, WhatTheJobHoldsGoesBeforeItsEndIsTold) {
  auto held = std::make_shared<int>(1);
  const std::weak_ptr<int> weak = held;
  bool gone = false;
  workers_->run<int>([held = std::move(held)]() -> Result<int> { return *held; },
                     [&](const Result<int>&) { gone = weak.expired(); });
  run_until_idle();
  EXPECT_TRUE(gone);
}

TEST_F(WorkersTest, DoneMayStartTheNext) {
  int count = 0;
  std::function<void(Result<int>)> again = [&](const Result<int>&) {
    if (++count < 5) workers_->run<int>([]() -> Result<int> { return 0; }, again);
  };
  workers_->run<int>([]() -> Result<int> { return 0; }, again);
  run_until_idle();
  EXPECT_EQ(count, 5);
}

TEST_F(WorkersTest, MayGoAsSoonAsTheyAreIdle) {
  for (int round = 0; round < 50; ++round) {
    auto workers = *Workers::create(*loop_);
    int done = 0;
    for (int i = 0; i < 4; ++i)
      workers->run<int>([]() -> Result<int> { return 0; }, [&](const Result<int>&) { ++done; });
    while (!workers->idle()) ASSERT_TRUE(loop_->run_once(-1));
    workers.reset();
    EXPECT_EQ(done, 4);
  }
}

TEST_F(WorkersTest, ManyJobs) {
  int sum = 0;
  for (int i = 1; i <= 200; ++i)
    workers_->run<int>([i]() -> Result<int> { return i; },
                       [&](const Result<int>& value) { sum += *value; });
  run_until_idle();
  EXPECT_EQ(sum, 20'100);
}

}  // namespace
}  // namespace kiln::shim
