// SPDX-License-Identifier: Apache-2.0
#include "base/process.h"

#include <sched.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "base/file.h"
#include "base/unix_socket.h"

namespace kiln {
namespace {

SpawnOptions shell(const std::string& script) {
  SpawnOptions options;
  options.program = "/bin/sh";
  options.argv = {"sh", "-c", script};
  return options;
}

TEST(Process, MissingProgramIsAnErrorOfSpawn) {
  SpawnOptions options;
  options.program = "/nonexistent";
  options.argv = {"x"};
  const auto child = spawn(options);
  ASSERT_FALSE(child);
  EXPECT_EQ(child.error().message, "run `/nonexistent`: No such file or directory");
}

TEST(Process, OutputAndStatusAreCaptured) {
  const auto run = run_captured(shell("cat; echo end; exit 7"), "input\n", 100, 10'000);
  ASSERT_TRUE(run);
  EXPECT_EQ(run->output, "input\nend\n");
  EXPECT_EQ(run->status.shell_code(), 7);
}

TEST(Process, DeathBySignalGives128PlusNumber) {
  const auto run = run_captured(shell("kill -TERM $$"), "", 100, 10'000);
  ASSERT_TRUE(run);
  EXPECT_EQ(run->status.shell_code(), 128 + SIGTERM);
}

TEST(Process, OnlyNamedDescriptorsAreInherited) {
  const UniqueFd extra = *open_file("/dev/null", O_RDONLY);
  ASSERT_EQ(fcntl(extra.get(), F_SETFD, 0), 0);  // inheritable by mistake
  const auto run = run_captured(shell("ls /proc/self/fd | wc -l"), "", 100, 10'000);
  ASSERT_TRUE(run);
  EXPECT_EQ(run->output, "4\n");  // 0, 1, 2 and the one that ls has open on the directory
}

TEST(Process, DescriptorsMayTradePlaces) {
  auto [left, right] = *socket_pair(SOCK_STREAM);
  SpawnOptions options = shell("echo left >&4; echo right >&3");
  options.fds = {{left.get(), 4}, {right.get(), 3}};
  auto child = spawn(options);
  ASSERT_TRUE(child);
  EXPECT_EQ((*wait_child(*child))->shell_code(), 0);
  std::string text(5, '\0');
  ASSERT_EQ(*read_fully(right.get(), text.data(), 5), 5U);
  EXPECT_EQ(text, "left\n");
}

TEST(Process, TimeoutKills) {
  const auto run = run_captured(shell("exec sleep 100"), "", 100, 50);
  ASSERT_FALSE(run);
  EXPECT_EQ(run.error().kind, ErrorKind::kDeadlineExceeded);
}

TEST(Process, WaitWithTimeoutReturnsNothingWhileItRuns) {
  auto child = spawn(shell("exec sleep 100"));
  ASSERT_TRUE(child);
  EXPECT_FALSE(wait_child(*child, 1)->has_value());
  kill_and_reap(*child);
}

// Root can have any namespace; others need one of users first, which a host may refuse them.
uint64_t with_user_namespace(uint64_t namespaces) {
  return geteuid() == 0 ? namespaces : namespaces | CLONE_NEWUSER;
}

TEST(Process, ChildInANewPidNamespaceIsItsFirstProcess) {
  SpawnOptions options = shell("echo $$");
  options.namespaces = with_user_namespace(CLONE_NEWPID);
  const auto run = run_captured(options, "", 100, 10'000);
  if (!run && run.error().sys_errno == EPERM) GTEST_SKIP() << "no user namespaces for us here";
  ASSERT_TRUE(run);
  EXPECT_EQ(run->output, "1\n");
}

TEST(Process, ChildInANewPidNamespaceIsKnownByOurNumber) {
  SpawnOptions options = shell("exec sleep 100");
  options.namespaces = with_user_namespace(CLONE_NEWPID);
  auto child = spawn(options);
  if (!child && child.error().sys_errno == EPERM) GTEST_SKIP() << "no user namespaces for us here";
  ASSERT_TRUE(child);
  EXPECT_EQ(kill(child->pid, 0), 0);
  const std::string status = *read_file("/proc/" + std::to_string(child->pid) + "/status");
  EXPECT_NE(status.find("NSpid:\t" + std::to_string(child->pid) + "\t1\n"), std::string::npos);
  kill_and_reap(*child);
}

TEST(Process, ChildInANewUserNamespaceKeepsItsIds) {
  SpawnOptions options = shell("id -u; id -g; cat /proc/self/setgroups");
  options.namespaces = CLONE_NEWUSER;
  const auto run = run_captured(options, "", 100, 10'000);
  if (!run && run.error().sys_errno == EPERM) GTEST_SKIP() << "no user namespaces for us here";
  ASSERT_TRUE(run);
  EXPECT_EQ(run->output, std::to_string(geteuid()) + "\n" + std::to_string(getegid()) + "\ndeny\n");
}

TEST(Process, ChildInANewPidNamespaceDiesWithItsParent) {
  auto [here, there] = *socket_pair(SOCK_STREAM);
  const pid_t middle = fork();
  if (middle == 0) {
    SpawnOptions options = shell("exec sleep 100");
    options.namespaces = with_user_namespace(CLONE_NEWPID);
    options.fds = {{there.get(), 3}};
    const auto child = spawn(options);
    _exit(child ? 0 : (child.error().sys_errno == EPERM ? 2 : 1));
  }
  there.reset();
  int status = 0;
  ASSERT_EQ(waitpid(middle, &status, 0), middle);
  if (WEXITSTATUS(status) == 2) GTEST_SKIP() << "no user namespaces for us here";
  ASSERT_EQ(status, 0);
  // The grandchild alone holds the other end: it closes when that is gone.
  char byte = 0;
  EXPECT_EQ(*read_fully(here.get(), &byte, 1), 0U);
}

TEST(Process, KeepsRunningAfterItsPagesWereReleased) {
  release_program_pages();
  EXPECT_TRUE(own_executable());
}

}  // namespace
}  // namespace kiln
