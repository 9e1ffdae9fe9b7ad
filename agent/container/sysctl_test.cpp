// SPDX-License-Identifier: Apache-2.0
#include "agent/container/sysctl.h"

#include <gtest/gtest.h>
#include <sched.h>

#include "agent/container/forked_child.h"
#include "base/file.h"
#include "oci/spec.h"

namespace kiln::agent {
namespace {

TEST(SysctlPath, FirstSeparatorSaysWhichOneSeparates) {
  EXPECT_EQ(sysctl_path("net.ipv4.ip_forward").value(), "net/ipv4/ip_forward");
  EXPECT_EQ(sysctl_path("net/ipv4/ip_forward").value(), "net/ipv4/ip_forward");
  EXPECT_EQ(sysctl_path("net.ipv4.conf.eth0/100.forwarding").value(),
            "net/ipv4/conf/eth0.100/forwarding");
  EXPECT_EQ(sysctl_path("net/ipv4/conf/eth0.100/forwarding").value(),
            "net/ipv4/conf/eth0.100/forwarding");
}

TEST(SysctlPath, RefusesPathsThatLeave) {
  for (const char* key : {"../self/oom_score_adj", "kernel/../../x", "/etc/passwd", "", "kernel.",
                          "kernel..x", "./x", "net//x"}) {
    EXPECT_FALSE(sysctl_path(key)) << key;
  }
}

// In IPC and network namespaces of its own, where values hurt nobody.
int with_sysctls(const oci::StringMap& sysctls, const std::function<int(Result<void>)>& check) {
  return exit_code_of_child([&] {
    if (::unshare(CLONE_NEWIPC | CLONE_NEWNET) != 0) return 98;
    oci::Spec spec;
    spec.linux.sysctl = sysctls;
    return check(apply_sysctls(spec));
  });
}

TEST(Sysctl, WritesTheNamespacesValues) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root: makes namespaces";
  const int code = with_sysctls(
      {{"kernel.msgmax", "4321"}, {"net/ipv4/ip_forward", "1"}}, [](Result<void> applied) {
        return applied && read_file("/proc/sys/kernel/msgmax").value() == "4321\n" &&
                       read_file("/proc/sys/net/ipv4/ip_forward").value() == "1\n"
                   ? 0
                   : 1;
      });
  EXPECT_EQ(code, 0);
}

TEST(Sysctl, NamesTheParameterThatDoesNotExist) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root: makes namespaces";
  const int code = with_sysctls({{"kernel.no_such", "1"}}, [](Result<void> applied) {
    return !applied && applied.error().message ==
                           "linux.sysctl `kernel.no_such`: the guest's kernel has no such parameter"
               ? 0
               : 1;
  });
  EXPECT_EQ(code, 0);
}

TEST(Sysctl, NamesTheValueThatTheKernelRefuses) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root: makes namespaces";
  const int code = with_sysctls({{"kernel.msgmax", "many"}}, [](Result<void> applied) {
    return !applied && applied.error().message ==
                           "linux.sysctl `kernel.msgmax`: write `many`: Invalid argument"
               ? 0
               : 1;
  });
  EXPECT_EQ(code, 0);
}

TEST(Sysctl, WithoutAnyNeedsNoProc) { EXPECT_TRUE(apply_sysctls(oci::Spec())); }

}  // namespace
}  // namespace kiln::agent
