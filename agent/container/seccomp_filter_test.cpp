// SPDX-License-Identifier: Apache-2.0
#include "agent/container/seccomp_filter.h"

#include <gtest/gtest.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>

#include "agent/container/forked_child.h"
#include "oci/spec.h"

namespace kiln::agent {
namespace {

constexpr int kNotLoaded = 99;
// Few programs call it, and it takes any arguments without harm: getpriority(which, who).
constexpr long kProbe = SYS_getpriority;

oci::Seccomp profile(oci::SyscallRule rule, const char* default_action = "SCMP_ACT_ALLOW") {
  return {.default_action = default_action, .syscalls = {std::move(rule)}};
}

oci::SyscallRule probe_rule(const char* action, std::vector<oci::SyscallArg> args = {}) {
  return {.names = {"getpriority"}, .action = action, .args = std::move(args)};
}

bool load(const oci::Seccomp& config) {
  const auto program = compile_seccomp(config);
  return program && ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && load_seccomp(*program);
}

// errno of `call` under the filter, 0 if it succeeds.
int errno_under(const oci::Seccomp& config, const std::function<long()>& call) {
  return exit_code_of_child([&] {
    if (!load(config)) return kNotLoaded;
    // _exit has system calls of its own where a sanitizer intercepts it.
    ::syscall(SYS_exit_group, call() < 0 ? errno : 0);
    return kNotLoaded;
  });
}

int errno_of_probe(const oci::Seccomp& config, long which = 0, long who = 0) {
  return errno_under(config, [=] { return ::syscall(kProbe, which, who); });
}

int signal_under(const oci::Seccomp& config) {
  const int status = status_of_child([&] {
    if (!load(config)) return kNotLoaded;
    ::syscall(kProbe, 0, 0);
    return 0;
  });
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

// A filter whose default denies must let the child get as far as its exit.
oci::Seccomp denying(oci::SyscallRule rule) {
  oci::Seccomp config = profile(std::move(rule), "SCMP_ACT_ERRNO");
  config.syscalls.push_back({.names = {"exit_group", "exit"}, .action = "SCMP_ACT_ALLOW"});
  return config;
}

TEST(Seccomp, AllowsByDefault) {
  EXPECT_EQ(errno_of_probe(profile(probe_rule("SCMP_ACT_LOG"))), 0);
}

TEST(Seccomp, ErrnoIsEpermUnlessNamed) {
  oci::SyscallRule rule = probe_rule("SCMP_ACT_ERRNO");
  EXPECT_EQ(errno_of_probe(profile(rule)), EPERM);
  rule.errno_ret = EXDEV;
  EXPECT_EQ(errno_of_probe(profile(rule)), EXDEV);
}

TEST(Seccomp, DefaultErrnoIsWhatTheConfigNames) {
  oci::Seccomp config = denying({.names = {"uselib"}, .action = "SCMP_ACT_ALLOW"});
  EXPECT_EQ(errno_of_probe(config), EPERM);
  config.default_errno_ret = EXDEV;
  EXPECT_EQ(errno_of_probe(config), EXDEV);
}

TEST(Seccomp, KillsTheProcess) {
  EXPECT_EQ(signal_under(profile(probe_rule("SCMP_ACT_KILL_PROCESS"))), SIGSYS);
  EXPECT_EQ(signal_under(profile(probe_rule("SCMP_ACT_KILL"))), SIGSYS);
  EXPECT_EQ(signal_under(profile(probe_rule("SCMP_ACT_KILL_THREAD"))), SIGSYS);
}

TEST(Seccomp, TrapRaisesSigsys) {
  EXPECT_EQ(signal_under(profile(probe_rule("SCMP_ACT_TRAP"))), SIGSYS);
}

TEST(Seccomp, TraceWithoutATracerIsEnosys) {
  EXPECT_EQ(errno_of_probe(profile(probe_rule("SCMP_ACT_TRACE"))), ENOSYS);
}

TEST(Seccomp, NotifyIsRefused) {
  const auto program = compile_seccomp(profile(probe_rule("SCMP_ACT_NOTIFY")));
  ASSERT_FALSE(program);
  EXPECT_EQ(program.error().message,
            "linux.seccomp: SCMP_ACT_NOTIFY is not supported in a microVM");
}

struct Comparison {
  const char* op;
  uint64_t value;
  uint64_t value_two;
  long matching;
  long other;
};

class SeccompOperator : public testing::TestWithParam<Comparison> {};

TEST_P(SeccompOperator, DeniesWhatMatchesOnly) {
  const Comparison& comparison = GetParam();
  const auto config = profile(probe_rule("SCMP_ACT_ERRNO", {{.index = 1,
                                                             .value = comparison.value,
                                                             .value_two = comparison.value_two,
                                                             .op = comparison.op}}));
  // PRIO_USER: no process is needed for the number to be valid.
  const auto is_denied = [&](long who) { return errno_of_probe(config, 0, who) == EPERM; };
  EXPECT_TRUE(is_denied(comparison.matching));
  EXPECT_FALSE(is_denied(comparison.other));
}

INSTANTIATE_TEST_SUITE_P(
    All, SeccompOperator,
    testing::Values(Comparison{"SCMP_CMP_EQ", 7, 0, 7, 8}, Comparison{"SCMP_CMP_NE", 7, 0, 8, 7},
                    Comparison{"SCMP_CMP_LT", 7, 0, 6, 7}, Comparison{"SCMP_CMP_LE", 7, 0, 7, 8},
                    Comparison{"SCMP_CMP_GT", 7, 0, 8, 7}, Comparison{"SCMP_CMP_GE", 7, 0, 7, 6},
                    Comparison{"SCMP_CMP_MASKED_EQ", 0xf0, 0x20, 0x2f, 0x3f},
                    Comparison{"SCMP_CMP_EQ", uint64_t{1} << 40, 0, long{1} << 40, 0}));

TEST(Seccomp, AllArgumentsHaveToMatch) {
  const auto config =
      profile(probe_rule("SCMP_ACT_ERRNO", {{.index = 0, .value = 1, .op = "SCMP_CMP_EQ"},
                                            {.index = 1, .value = 5, .op = "SCMP_CMP_EQ"}}));
  EXPECT_EQ(errno_of_probe(config, 1, 5), EPERM);
  EXPECT_NE(errno_of_probe(config, 1, 6), EPERM);
  EXPECT_NE(errno_of_probe(config, 2, 5), EPERM);
}

TEST(Seccomp, OneArgumentTwiceMatchesEither) {
  const auto config =
      profile(probe_rule("SCMP_ACT_ERRNO", {{.index = 1, .value = 5, .op = "SCMP_CMP_EQ"},
                                            {.index = 1, .value = 6, .op = "SCMP_CMP_EQ"}}));
  EXPECT_EQ(errno_of_probe(config, 0, 5), EPERM);
  EXPECT_EQ(errno_of_probe(config, 0, 6), EPERM);
  EXPECT_NE(errno_of_probe(config, 0, 7), EPERM);
}

TEST(Seccomp, UnknownSystemCallsAreLeftOut) {
  oci::SyscallRule rule = probe_rule("SCMP_ACT_ERRNO");
  rule.names.insert(rule.names.begin(), "no_such_call_ever");
  EXPECT_EQ(errno_of_probe(profile(rule)), EPERM);
}

TEST(Seccomp, CallsNewerThanTheProfileDoNotExist) {
  constexpr long future = 4000;
  const auto config = denying(probe_rule("SCMP_ACT_ALLOW"));
  EXPECT_EQ(errno_under(config, [] { return ::syscall(future); }), ENOSYS);
  EXPECT_EQ(errno_under(config, [] { return ::syscall(SYS_getppid); }), EPERM);
}

TEST(Seccomp, RulesThatRepeatTheDefaultAreNoError) {
  EXPECT_EQ(errno_of_probe(profile(probe_rule("SCMP_ACT_ALLOW"))), 0);
}

TEST(Seccomp, TakesEveryArchitectureOfTheSpec) {
  oci::Seccomp config = profile(probe_rule("SCMP_ACT_ERRNO"));
  config.architectures = {"SCMP_ARCH_X86_64", "SCMP_ARCH_X86",     "SCMP_ARCH_X32",
                          "SCMP_ARCH_S390X",  "SCMP_ARCH_AARCH64", "SCMP_ARCH_M68K"};
  EXPECT_EQ(errno_of_probe(config), EPERM);
}

// int 0x80 enters a 64-bit process's system calls as i386's: 96 is getpriority there.
#ifdef __x86_64__
long call_as_i386(long number) {
  long result = number;
  asm volatile("int $0x80" : "+a"(result) : "b"(0L), "c"(0L), "d"(0L) : "memory");
  return result;
}

TEST(Seccomp, KillsArchitecturesThatAreNotNamed) {
  const int status = status_of_child([] {
    if (!load(profile(probe_rule("SCMP_ACT_ERRNO")))) return kNotLoaded;
    call_as_i386(96);
    return 0;
  });
  EXPECT_TRUE(WIFSIGNALED(status));
}

TEST(Seccomp, AppliesToArchitecturesThatAreNamed) {
  oci::Seccomp config = profile(probe_rule("SCMP_ACT_ERRNO"));
  config.architectures = {"SCMP_ARCH_X86_64", "SCMP_ARCH_X86"};
  const int code = exit_code_of_child([&] {
    if (!load(config)) return kNotLoaded;
    return static_cast<int>(-call_as_i386(96));
  });
  EXPECT_EQ(code, EPERM);
}
#endif

TEST(Seccomp, PassesFlagsOn) {
  oci::Seccomp config = profile(probe_rule("SCMP_ACT_ERRNO"));
  config.flags = {"SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC",
                  "SECCOMP_FILTER_FLAG_SPEC_ALLOW"};
  const auto program = compile_seccomp(config);
  ASSERT_TRUE(program);
  EXPECT_EQ(program->flags,
            SECCOMP_FILTER_FLAG_LOG | SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_SPEC_ALLOW);
  EXPECT_EQ(errno_of_probe(config), EPERM);
}

TEST(Seccomp, RefusesAFlagThatNeedsAListener) {
  oci::Seccomp config = profile(probe_rule("SCMP_ACT_ERRNO"));
  config.flags = {"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"};
  EXPECT_FALSE(compile_seccomp(config));
}

TEST(Seccomp, LoadsWithoutNoNewPrivsAsRoot) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs CAP_SYS_ADMIN";
  const int code = exit_code_of_child([] {
    const auto program = compile_seccomp(profile(probe_rule("SCMP_ACT_ERRNO")));
    if (!program || !load_seccomp(*program)) return kNotLoaded;
    if (::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 0) return 98;
    return ::syscall(kProbe, 0, 0) < 0 ? errno : 0;
  });
  EXPECT_EQ(code, EPERM);
}

TEST(Seccomp, LoadingWithoutPrivilegeSaysSo) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root: drops privileges";
  const int code = exit_code_of_child([] {
    const auto program = compile_seccomp(profile(probe_rule("SCMP_ACT_ERRNO")));
    if (!program || ::setuid(12345) != 0) return kNotLoaded;
    const auto loaded = load_seccomp(*program);
    return loaded ? 0 : loaded.error().sys_errno;
  });
  EXPECT_EQ(code, EACCES);
}

}  // namespace
}  // namespace kiln::agent
