// SPDX-License-Identifier: Apache-2.0
#include "runtime/guest/tool.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <filesystem>

#include "base/temporary_directory.h"

namespace kiln::runtime {
namespace {

ToolRun shell(const std::string& script) {
  ToolRun run;
  run.argv = {"sh", "-c", script};
  return run;
}

TEST(RunTool, GivesWhatTheToolPrints) { EXPECT_EQ(run_tool(shell("echo out")).value(), "out\n"); }

TEST(RunTool, FailureSaysWhatTheToolSaidLast) {
  const auto done = run_tool(shell("echo broken >&2; exit 3"));
  ASSERT_FALSE(done);
  EXPECT_NE(done.error().message.find("code 3: broken"), std::string::npos) << done.error().message;
}

TEST(RunTool, ASignalEndsTheToolAndTheWork) {
  const Interruptible interruptible;
  const auto directory =
      TemporaryDirectory::create(std::filesystem::temp_directory_path(), "kiln-tool-test-");
  ASSERT_TRUE(directory);
  // The tool hears of it and ends by itself.
  const std::string mark = directory->path() + "/ended";
  ToolRun run = shell("trap 'touch " + mark + "; exit 1' TERM; while :; do sleep 0.05; done");
  run.tick = [] { kill(getpid(), SIGTERM); };
  const auto done = run_tool(run);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().kind, ErrorKind::kCancelled);
  EXPECT_EQ(Interruptible::signal_seen(), SIGTERM);
  EXPECT_TRUE(std::filesystem::exists(mark));
}

TEST(RunTool, AToolThatDoesNotListenIsKilled) {
  const Interruptible interruptible;
  ToolRun run = shell("trap '' TERM; while :; do sleep 0.05; done");
  run.tick = [] { kill(getpid(), SIGTERM); };
  const auto done = run_tool(run);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().kind, ErrorKind::kCancelled);
}

// As make does, which a signal to the script that runs it would not reach.
TEST(RunTool, WhatTheToolHasStartedEndsWithIt) {
  const Interruptible interruptible;
  std::array<int, 2> fds{};
  ASSERT_EQ(pipe2(fds.data(), O_CLOEXEC), 0);
  const UniqueFd reader(fds[0]);
  const std::string writer = "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(fds[1]);
  ToolRun run = shell("exec 3>" + writer + "; sleep 1000 & wait");
  run.tick = [] { kill(getpid(), SIGTERM); };
  EXPECT_FALSE(run_tool(run));
  close(fds[1]);
  pollfd poller{reader.get(), POLLIN, 0};
  EXPECT_EQ(poll(&poller, 1, 10'000), 1) << "the background process still has the pipe open";
}

TEST(Interruptible, LeavesAnIgnoredSignalIgnored) {
  const auto before = signal(SIGHUP, SIG_IGN);
  {
    const Interruptible interruptible;
    kill(getpid(), SIGHUP);
    EXPECT_EQ(Interruptible::signal_seen(), 0);
  }
  signal(SIGHUP, before);
}

TEST(Interruptible, LeavesTheSignalsAsTheyWere) {
  struct sigaction before {};
  sigaction(SIGTERM, nullptr, &before);
  { const Interruptible interruptible; }
  struct sigaction after {};
  sigaction(SIGTERM, nullptr, &after);
  EXPECT_EQ(before.sa_handler, after.sa_handler);
}

}  // namespace
}  // namespace kiln::runtime
