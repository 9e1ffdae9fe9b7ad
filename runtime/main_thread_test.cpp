// SPDX-License-Identifier: Apache-2.0
#include "runtime/main_thread.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>

namespace kiln::runtime {
namespace {

TEST(MainThread, ErrandsRunOnItAndTheBodyBesideIt) {
  MainThread main_thread;
  const pid_t first = gettid();
  pid_t body = 0;
  pid_t errand = 0;
  const int value = main_thread.run([&] {
    body = gettid();
    for (int i = 0; i < 100; ++i) {
      EXPECT_TRUE(main_thread.perform([&]() -> Result<void> {
        errand = gettid();
        return {};
      }));
    }
    return 7;
  });
  EXPECT_EQ(value, 7);
  EXPECT_EQ(errand, first);
  EXPECT_NE(body, first);
}

TEST(MainThread, TheOutcomeOfAnErrandComesBack) {
  MainThread main_thread;
  const int value = main_thread.run([&] {
    const auto failed = main_thread.perform([] { return Result<void>(invalid_argument("no")); });
    return failed ? 0 : static_cast<int>(failed.error().message.size());
  });
  EXPECT_EQ(value, 2);
}

TEST(MainThread, SignalsAreTheBodys) {
  MainThread main_thread;
  const int value = main_thread.run([] {
    sigset_t wanted{};
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &wanted, nullptr);
    kill(getpid(), SIGUSR1);
    int number = 0;
    sigwait(&wanted, &number);
    return number;
  });
  EXPECT_EQ(value, SIGUSR1);
}

}  // namespace
}  // namespace kiln::runtime
