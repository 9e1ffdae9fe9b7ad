// SPDX-License-Identifier: Apache-2.0
#include "vmm/confine/syscall_filter.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <thread>

#include <gtest/gtest.h>

#include "base/file.h"

namespace kiln::vmm {
namespace {

constexpr int kInstalled = 40;  // + what the body returns

// The wait status of a child that installs the filter and then does `body`, whose result is to be
// 0.
int run_filtered(ThreadKind kind, const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    if (!install_filter(kind, Denial::kKill)) _exit(1);
    syscall(SYS_exit_group, kInstalled + body());
  }
  int status = 0;
  retry_eintr([&] { return waitpid(child, &status, 0); });
  return status;
}

testing::AssertionResult survives(ThreadKind kind, const std::function<int()>& body) {
  const int status = run_filtered(kind, body);
  if (WIFEXITED(status) && WEXITSTATUS(status) == kInstalled) return testing::AssertionSuccess();
  return testing::AssertionFailure() << name_of(kind) << ": wait status " << status;
}

testing::AssertionResult dies_of(ThreadKind kind, const std::function<int()>& body) {
  const int status = run_filtered(kind, body);
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS) return testing::AssertionSuccess();
  return testing::AssertionFailure() << name_of(kind) << ": wait status " << status;
}

constexpr ThreadKind kKinds[] = {ThreadKind::kVcpu, ThreadKind::kDevice, ThreadKind::kApi,
                                 ThreadKind::kFs};

TEST(SyscallFilter, CallOutsideTheTableKillsTheProcess) {
  for (const ThreadKind kind : kKinds) {
    EXPECT_TRUE(dies_of(kind, [] { return static_cast<int>(syscall(SYS_getppid)); }));
    EXPECT_TRUE(dies_of(kind, [] { return static_cast<int>(syscall(SYS_execve, 0, 0, 0)); }));
    EXPECT_TRUE(dies_of(kind, [] { return static_cast<int>(syscall(SYS_ptrace, 0, 0, 0, 0)); }));
    EXPECT_TRUE(dies_of(kind, [] { return static_cast<int>(syscall(SYS_unshare, 0)); }));
  }
}

TEST(SyscallFilter, CallInTheTableIsMade) {
  for (const ThreadKind kind : kKinds) {
    EXPECT_TRUE(survives(kind, [] { return syscall(SYS_gettid) > 0 ? 0 : 1; }));
    EXPECT_TRUE(survives(kind, [] { return syscall(SYS_sched_yield) == 0 ? 0 : 1; }));
  }
}

TEST(SyscallFilter, CallOfAnotherThreadKindKillsTheProcess) {
  const auto connect = [] { return static_cast<int>(syscall(SYS_connect, -1, nullptr, 0)); };
  EXPECT_TRUE(dies_of(ThreadKind::kVcpu, connect));
  EXPECT_TRUE(dies_of(ThreadKind::kApi, connect));
  EXPECT_TRUE(dies_of(ThreadKind::kFs, connect));
  EXPECT_TRUE(survives(ThreadKind::kDevice, [&] { return connect() == -1 ? 0 : 1; }));
}

TEST(SyscallFilter, CallWithAnArgumentOutsideItsListKillsTheProcess) {
  EXPECT_TRUE(survives(ThreadKind::kVcpu, [] { return ioctl(-1, KVM_RUN, 0) == -1 ? 0 : 1; }));
  EXPECT_TRUE(dies_of(ThreadKind::kVcpu, [] { return ioctl(-1, KVM_CREATE_VCPU, 0); }));
  EXPECT_TRUE(dies_of(ThreadKind::kDevice, [] { return ioctl(-1, KVM_RUN, 0); }));
  EXPECT_TRUE(dies_of(ThreadKind::kDevice, [] { return ioctl(-1, TIOCSTI, 0); }));
  EXPECT_TRUE(dies_of(ThreadKind::kFs, [] { return ioctl(-1, KVM_RUN, 0); }));
  EXPECT_TRUE(
      survives(ThreadKind::kDevice, [] { return socket(AF_UNIX, SOCK_STREAM, 0) >= 0 ? 0 : 1; }));
  EXPECT_TRUE(dies_of(ThreadKind::kDevice, [] { return socket(AF_INET, SOCK_STREAM, 0); }));
  EXPECT_TRUE(dies_of(ThreadKind::kDevice, [] { return fcntl(0, F_NOTIFY, 0); }));
}

// The last rule for ioctl of three, and the last value of its list.
TEST(SyscallFilter, LaterRulesForACallAreTriedToo) {
  EXPECT_TRUE(
      survives(ThreadKind::kDevice, [] { return ioctl(-1, KVM_SIGNAL_MSI, 0) == -1 ? 0 : 1; }));
}

TEST(SyscallFilter, MemoryBecomesNoCode) {
  const auto map = [](int protection) {
    return mmap(nullptr, 4096, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  };
  for (const ThreadKind kind : kKinds) {
    EXPECT_TRUE(survives(kind, [&] { return map(PROT_READ | PROT_WRITE) != MAP_FAILED ? 0 : 1; }));
    EXPECT_TRUE(dies_of(kind, [&] { return map(PROT_READ | PROT_EXEC) != MAP_FAILED ? 0 : 1; }));
    EXPECT_TRUE(dies_of(kind, [&] {
      void* page = map(PROT_READ | PROT_WRITE);
      return mprotect(page, 4096, PROT_READ | PROT_EXEC);
    }));
  }
}

TEST(SyscallFilter, SignalsReachThisProcessOnly) {
  for (const ThreadKind kind : kKinds) {
    EXPECT_TRUE(survives(kind, [] {
      return static_cast<int>(syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), 0));
    }));
    EXPECT_TRUE(dies_of(kind, [] { return static_cast<int>(syscall(SYS_tgkill, 1, 1, 0)); }));
    EXPECT_TRUE(dies_of(kind, [] { return static_cast<int>(syscall(SYS_kill, getpid(), 0)); }));
  }
}

TEST(SyscallFilter, OpeningAFileOfTheVmmFailsWithoutBeingTried) {
  const auto open_root = [] {
    const long fd = syscall(SYS_openat, AT_FDCWD, "/", O_RDONLY | O_CLOEXEC);
    return fd == -1 && errno == ENOENT ? 0 : 1;
  };
  EXPECT_TRUE(survives(ThreadKind::kVcpu, open_root));
  EXPECT_TRUE(survives(ThreadKind::kDevice, open_root));
  EXPECT_TRUE(survives(ThreadKind::kApi, open_root));
  EXPECT_TRUE(survives(ThreadKind::kFs, [] {
    return syscall(SYS_openat, AT_FDCWD, "/", O_RDONLY | O_CLOEXEC) >= 0 ? 0 : 1;
  }));
}

TEST(SyscallFilter, NewProcessKillsAndNewThreadOfTheFsServerRuns) {
  EXPECT_TRUE(dies_of(ThreadKind::kFs, [] {
    return static_cast<int>(syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr));
  }));
  EXPECT_TRUE(dies_of(ThreadKind::kApi, [] {
    return static_cast<int>(syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr));
  }));
  if (kSanitized) GTEST_SKIP() << "a sanitizer makes calls of its own when a thread starts";
  EXPECT_TRUE(survives(ThreadKind::kFs, [] {
    bool ran = false;
    std::thread([&] { ran = true; }).join();
    return ran ? 0 : 1;
  }));
}

TEST(SyscallFilter, ThreadsKeepTheirOwnTables) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer makes calls of its own when a thread starts";
  const pid_t child = fork();
  if (child == 0) {
    std::thread other([] {
      if (!install_filter(ThreadKind::kVcpu, Denial::kKill)) _exit(1);
    });
    other.join();
    // Not bound by the other's.
    _exit(syscall(SYS_getppid) > 0 ? kInstalled : 2);
  }
  int status = 0;
  retry_eintr([&] { return waitpid(child, &status, 0); });
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), kInstalled);
}

TEST(SyscallFilter, DeniedCallOfOneThreadEndsAllOfThem) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer makes calls of its own when a thread starts";
  const pid_t child = fork();
  if (child == 0) {
    std::thread other([] {
      if (!install_filter(ThreadKind::kDevice, Denial::kKill)) _exit(1);
      syscall(SYS_getppid);
    });
    other.join();
    _exit(2);
  }
  int status = 0;
  retry_eintr([&] { return waitpid(child, &status, 0); });
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGSYS);
}

TEST(SyscallFilter, ReportNamesTheCallAndTheThreadAndEndsTheProcess) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer makes calls of its own in a handler";
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd out(ends[0]);
  UniqueFd in(ends[1]);
  const pid_t child = fork();
  if (child == 0) {
    dup2(in.get(), STDERR_FILENO);
    if (install_filter(ThreadKind::kDevice, Denial::kReport)) syscall(SYS_getppid);
    _exit(1);
  }
  in.reset();
  int status = 0;
  retry_eintr([&] { return waitpid(child, &status, 0); });
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGSYS);
  EXPECT_EQ(*read_fd(out.get(), 1000), "kiln-vmm: system call " + std::to_string(SYS_getppid) +
                                           " is not in the table of threads of kind device\n");
}

}  // namespace
}  // namespace kiln::vmm
