// SPDX-License-Identifier: Apache-2.0
#include "agent/container/process_attributes.h"

#include <grp.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>

#include "agent/container/forked_child.h"
#include "base/file.h"
#include "oci/spec.h"

namespace kiln::agent {
namespace {

constexpr int kFailed = 99;

#define NEEDS_ROOT() \
  if (::geteuid() != 0) GTEST_SKIP() << "needs root: changes ids and capabilities"

uint64_t bit(unsigned capability) { return uint64_t{1} << capability; }

// A set as /proc/self/status shows it: `CapPrm`, …
uint64_t status_set(const char* key) {
  const auto text = read_file("/proc/thread-self/status");
  const size_t at = text ? text->find(std::string(key) + ":\t") : std::string::npos;
  return at == std::string::npos ? ~uint64_t{0}
                                 : std::strtoull(text->c_str() + at + 8, nullptr, 16);
}

// 0 if `check` holds in a child that has taken on the process's identity.
int with_identity(const oci::Process& process, const std::function<bool()>& check) {
  return exit_code_of_child([&] {
    const auto applied = apply_identity(process);
    if (!applied) {
      std::fprintf(stderr, "%s\n", applied.error().message.c_str());
      return kFailed;
    }
    return check() ? 0 : 1;
  });
}

oci::Process user_process(uint32_t uid, uint32_t gid) {
  oci::Process process;
  process.user.uid = uid;
  process.user.gid = gid;
  return process;
}

TEST(Identity, SetsUserGroupAndAdditionalGroups) {
  NEEDS_ROOT();
  oci::Process process = user_process(1234, 2345);
  process.user.additional_gids = {7, 8};
  EXPECT_EQ(with_identity(process,
                          [] {
                            uid_t real = 0, effective = 0, saved = 0;
                            gid_t rgid = 0, egid = 0, sgid = 0;
                            ::getresuid(&real, &effective, &saved);
                            ::getresgid(&rgid, &egid, &sgid);
                            gid_t groups[8];
                            return real == 1234 && effective == 1234 && saved == 1234 &&
                                   rgid == 2345 && egid == 2345 && sgid == 2345 &&
                                   ::getgroups(8, groups) == 2 && groups[0] == 7 && groups[1] == 8;
                          }),
            0);
}

TEST(Identity, DropsTheCallersGroups) {
  NEEDS_ROOT();
  EXPECT_EQ(exit_code_of_child([] {
              const gid_t groups[] = {42};
              if (::setgroups(1, groups) != 0) return kFailed;
              if (!apply_identity(user_process(0, 0))) return kFailed;
              return ::getgroups(0, nullptr);
            }),
            0);
}

TEST(Identity, WithoutCapabilitiesHasNone) {
  NEEDS_ROOT();
  EXPECT_EQ(with_identity(user_process(0, 0),
                          [] {
                            return status_set("CapPrm") == 0 && status_set("CapEff") == 0 &&
                                   status_set("CapInh") == 0 && status_set("CapBnd") == 0 &&
                                   status_set("CapAmb") == 0;
                          }),
            0);
}

TEST(Identity, HasEachSetAsConfigured) {
  NEEDS_ROOT();
  oci::Process process = user_process(1234, 1234);
  process.capabilities =
      oci::Capabilities{.bounding = {"CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_NET_RAW"},
                        .effective = {"CAP_KILL"},
                        .inheritable = {"CAP_SETUID", "CAP_NET_RAW"},
                        .permitted = {"CAP_KILL", "CAP_CHOWN", "CAP_NET_RAW"},
                        .ambient = {"CAP_NET_RAW"}};
  EXPECT_EQ(with_identity(process,
                          [] {
                            return status_set("CapBnd") == (bit(CAP_CHOWN) | bit(CAP_KILL) |
                                                            bit(CAP_SETUID) | bit(CAP_NET_RAW)) &&
                                   status_set("CapEff") == bit(CAP_KILL) &&
                                   status_set("CapInh") == (bit(CAP_SETUID) | bit(CAP_NET_RAW)) &&
                                   status_set("CapPrm") ==
                                       (bit(CAP_KILL) | bit(CAP_CHOWN) | bit(CAP_NET_RAW)) &&
                                   status_set("CapAmb") == bit(CAP_NET_RAW);
                          }),
            0);
}

TEST(Identity, AmbientCapabilityThatIsNotInheritableIsLeftOut) {
  NEEDS_ROOT();
  oci::Process process = user_process(1234, 1234);
  process.capabilities = oci::Capabilities{
      .bounding = {"CAP_KILL"}, .permitted = {"CAP_KILL"}, .ambient = {"CAP_KILL"}};
  EXPECT_EQ(exit_code_of_child([&] {
              const bool applied = apply_identity(process).has_value();
              return applied && status_set("CapAmb") == 0 && status_set("CapPrm") == bit(CAP_KILL)
                         ? 0
                         : kFailed;
            }),
            0);
}

TEST(Identity, AmbientCapabilityThatIsNotInheritableIsAWarning) {
  oci::Process process;
  process.capabilities = oci::Capabilities{.permitted = {"CAP_KILL"}, .ambient = {"CAP_KILL"}};
  EXPECT_EQ(check_process(process)->size(), 1U);
  process.capabilities->inheritable = {"CAP_KILL"};
  EXPECT_EQ(check_process(process)->size(), 0U);
}

TEST(Identity, UnknownCapabilityIsAWarning) {
  oci::Process process;
  process.capabilities =
      oci::Capabilities{.bounding = {"CAP_KILL", "CAP_FLY"}, .permitted = {"CAP_FLY"}};
  const auto warnings = check_process(process);
  ASSERT_TRUE(warnings);
  EXPECT_EQ(*warnings,
            (std::vector<std::string>{"process.capabilities: unknown capability `CAP_FLY`"}));
}

TEST(Identity, UmaskIsTheConfiguredOneOr0022) {
  NEEDS_ROOT();
  oci::Process process = user_process(0, 0);
  EXPECT_EQ(with_identity(process, [] { return ::umask(0) == 0022; }), 0);
  process.user.umask = 0077;
  EXPECT_EQ(with_identity(process, [] { return ::umask(0) == 0077; }), 0);
}

TEST(Identity, NoNewPrivilegesIsSetOnDemand) {
  NEEDS_ROOT();
  oci::Process process = user_process(0, 0);
  const auto no_new_privs = [] { return ::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1; };
  EXPECT_EQ(with_identity(process, no_new_privs), 1);
  process.no_new_privileges = true;
  EXPECT_EQ(with_identity(process, no_new_privs), 0);
}

TEST(Identity, DoesNotKeepCapabilitiesForLater) {
  NEEDS_ROOT();
  EXPECT_EQ(
      with_identity(user_process(5, 5), [] { return ::prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0) == 0; }),
      0);
}

TEST(Identity, RefusesProfilesAndLabelsOfSecurityModules) {
  oci::Process process;
  process.apparmor_profile = "unconfined";
  EXPECT_TRUE(check_process(process));
  process.apparmor_profile = "docker-default";
  EXPECT_EQ(check_process(process).error().message,
            "process.apparmorProfile `docker-default`: the guest has no AppArmor");
  process.apparmor_profile.clear();
  process.selinux_label = "system_u:system_r:container_t:s0";
  EXPECT_FALSE(check_process(process));
}

int with_limits(const oci::Process& process, const std::function<bool()>& check) {
  return exit_code_of_child([&] { return !apply_limits(process) ? kFailed : check() ? 0 : 1; });
}

TEST(Limits, SetSoftAndHard) {
  oci::Process process;
  process.rlimits = {{.type = "RLIMIT_NOFILE", .soft = 11, .hard = 22},
                     {.type = "RLIMIT_CORE", .soft = 0, .hard = 0}};
  EXPECT_EQ(with_limits(process,
                        [] {
                          struct rlimit files {};
                          struct rlimit core {};
                          ::getrlimit(RLIMIT_NOFILE, &files);
                          ::getrlimit(RLIMIT_CORE, &core);
                          return files.rlim_cur == 11 && files.rlim_max == 22 && core.rlim_max == 0;
                        }),
            0);
}

TEST(Limits, OfUnknownNameAreAnError) {
  oci::Process process;
  process.rlimits = {{.type = "RLIMIT_FUN", .soft = 1, .hard = 1}};
  EXPECT_EQ(apply_limits(process).error().message,
            "process.rlimits `RLIMIT_FUN`: the guest's kernel has no such");
}

TEST(Limits, SoftAboveHardSaysWhich) {
  oci::Process process;
  process.rlimits = {{.type = "RLIMIT_NOFILE", .soft = 22, .hard = 11}};
  EXPECT_EQ(apply_limits(process).error().message,
            "set `RLIMIT_NOFILE` to 22 and 11: Invalid argument");
}

TEST(Limits, AdjustTheOomScore) {
  oci::Process process;
  process.oom_score_adj = 321;
  EXPECT_EQ(
      with_limits(process, [] { return read_file("/proc/self/oom_score_adj").value() == "321\n"; }),
      0);
}

TEST(Limits, SetTheSchedulerAndItsFlags) {
  oci::Process process;
  process.scheduler =
      oci::Scheduler{.policy = "SCHED_BATCH", .nice = 5, .flags = {"SCHED_FLAG_RESET_ON_FORK"}};
  EXPECT_EQ(with_limits(process,
                        [] {
                          return ::sched_getscheduler(0) == (SCHED_BATCH | SCHED_RESET_ON_FORK) &&
                                 ::getpriority(PRIO_PROCESS, 0) == 5;
                        }),
            0);
}

TEST(Limits, RefuseASchedulerThatTheKernelLacks) {
  oci::Process process;
  process.scheduler = oci::Scheduler{.policy = "SCHED_ISO"};
  EXPECT_EQ(apply_limits(process).error().message,
            "process.scheduler.policy `SCHED_ISO`: the guest's kernel has no such");
}

TEST(Limits, SetTheIoPriority) {
  oci::Process process;
  process.io_priority = oci::IoPriority{.class_name = "IOPRIO_CLASS_BE", .priority = 6};
  EXPECT_EQ(with_limits(process,
                        [] {
                          // ioprio_get(2): of this process; class 2 is the best effort.
                          return ::syscall(SYS_ioprio_get, 1, 0) == (2 << 13 | 6);
                        }),
            0);
}

TEST(Limits, RefuseAnIoPriorityOutOfRange) {
  oci::Process process;
  process.io_priority = oci::IoPriority{.class_name = "IOPRIO_CLASS_BE", .priority = 8};
  EXPECT_EQ(apply_limits(process).error().message,
            "process.ioPriority.priority: must be 0 to 7, is 8");
}

TEST(ExecAffinity, IsTheFinalOne) {
  oci::Process process;
  process.exec_cpu_affinity = oci::ExecCpuAffinity{.initial = "1023", .final = "0-1"};
  EXPECT_EQ(exit_code_of_child([&] {
              if (!apply_exec_affinity(process)) return kFailed;
              cpu_set_t cpus;
              CPU_ZERO(&cpus);
              ::sched_getaffinity(0, sizeof cpus, &cpus);
              const int expected = ::sysconf(_SC_NPROCESSORS_CONF) > 1 ? 2 : 1;
              return CPU_COUNT(&cpus) == expected && CPU_ISSET(0, &cpus) ? 0 : 1;
            }),
            0);
}

TEST(ExecAffinity, OfCpusThatDoNotExistIsAnError) {
  oci::Process process;
  process.exec_cpu_affinity = oci::ExecCpuAffinity{.final = "1022,1023"};
  EXPECT_FALSE(apply_exec_affinity(process));
  process.exec_cpu_affinity->final = "1024";
  EXPECT_EQ(apply_exec_affinity(process).error().message,
            "process.execCPUAffinity.final: `1024`: is not a list of CPUs below 1024");
}

}  // namespace
}  // namespace kiln::agent
