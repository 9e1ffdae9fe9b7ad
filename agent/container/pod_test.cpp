// SPDX-License-Identifier: Apache-2.0
// In this machine's kernel, each test in a child with namespaces of its own.
#include "agent/container/pod.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <functional>

#include "agent/container/forked_child.h"
#include "base/file.h"
#include "base/format.h"

namespace kiln::agent {
namespace {

oci::Spec pod_config() {
  oci::Spec config;
  config.hostname = "web";
  config.linux.namespaces = {{"ipc", ""}, {"pid", ""}, {"uts", ""}, {"network", ""}, {"mount", ""}};
  config.linux.sysctl = {{"kernel.shmmni", "123"}, {"net.ipv4.ip_unprivileged_port_start", "77"}};
  return config;
}

std::string text_of(const std::string& path) {
  auto text = read_file(path, 4096);
  return text ? *text : text.error().message;
}

// In a network namespace of its own, as a guest has one: sysctls of the test stay in it.
#define IN_A_GUEST(body)                                                                          \
  if (geteuid() != 0) GTEST_SKIP() << "needs root to make namespaces";                            \
  EXPECT_EQ(exit_code_of_child(                                                                   \
                []() -> int { return unshare(CLONE_NEWNET | CLONE_NEWNS) == 0 ? (body)() : 1; }), \
            0)

int names_and_sysctls() {
  const auto pod = Pod::create(pod_config());
  if (!pod) return 2;
  if (text_of("/proc/sys/net/ipv4/ip_unprivileged_port_start") != "77\n") return 3;
  if (text_of("/proc/sys/kernel/shmmni") == "123\n") return 4;
  for (const int type : {CLONE_NEWIPC, CLONE_NEWUTS}) {
    const auto fd = (*pod)->namespace_fd(type);
    if (!fd || setns(*fd, type) != 0) return 5;
  }
  utsname names{};
  uname(&names);
  if (std::string(static_cast<const char*>(names.nodename)) != "web") return 6;
  return text_of("/proc/sys/kernel/shmmni") == "123\n" ? 0 : 7;
}

TEST(Pod, HasItsOwnNameAndSysctls) { IN_A_GUEST(names_and_sysctls); }

// A process whose parent is another member ends, and then the one that was its parent.
int orphans_are_reaped() {
  const auto pod = Pod::create(pod_config());
  if (!pod || (*pod)->init_pid() != -1) return 2;
  const auto fd = (*pod)->namespace_fd(CLONE_NEWPID);
  const pid_t init = (*pod)->init_pid();
  if (!fd || init <= 0 || setns(*fd, CLONE_NEWPID) != 0) return 3;
  const pid_t member = fork();
  if (member == 0) {
    if (fork() == 0) {
      poll(nullptr, 0, 100);
      _exit(0);
    }
    _exit(0);
  }
  waitpid(member, nullptr, 0);
  const std::string children = fmt::format("/proc/{}/task/{}/children", init, init);
  bool adopted = false;
  for (int i = 0; i < 500; ++i) {
    const bool none = text_of(children).empty();
    adopted = adopted || !none;
    if (adopted && none)
      return (*pod)->namespace_fd(CLONE_NEWPID) && (*pod)->init_pid() == init ? 0 : 4;
    poll(nullptr, 0, 10);
  }
  return adopted ? 5 : 6;
}

TEST(Pod, ReapsOrphansOfASharedPidNamespace) { IN_A_GUEST(orphans_are_reaped); }

int init_has_nothing() {
  const auto pod = Pod::create(pod_config());
  if (!pod || !(*pod)->namespace_fd(CLONE_NEWPID)) return 2;
  const std::string proc = fmt::format("/proc/{}/", (*pod)->init_pid());
  const std::string status = text_of(proc + "status");
  if (status.find("CapPrm:\t0000000000000000") == std::string::npos) return 3;
  if (status.find("Uid:\t65534\t65534\t65534\t65534") == std::string::npos) return 4;
  const auto mounts = read_file(proc + "mounts", 4096);
  if (!mounts || mounts->find("none / tmpfs ro") != 0) return 5;
  const auto fds = open_file(proc + "fd/0", O_PATH);
  return fds ? 6 : 0;
}

TEST(Pod, FirstProcessOfItsPidNamespaceHasNothingOfTheGuest) { IN_A_GUEST(init_has_nothing); }

int another_init() {
  const auto pod = Pod::create(pod_config());
  if (!pod || !(*pod)->namespace_fd(CLONE_NEWPID)) return 2;
  const pid_t first = (*pod)->init_pid();
  kill(first, SIGKILL);
  waitpid(first, nullptr, 0);
  return (*pod)->namespace_fd(CLONE_NEWPID) && (*pod)->init_pid() != first ? 0 : 3;
}

TEST(Pod, MakesAnotherPidNamespaceWhenItsFirstHasEnded) { IN_A_GUEST(another_init); }

int only_what_the_config_has() {
  oci::Spec config;
  config.linux.namespaces = {{"uts", ""}, {"mount", ""}};
  const auto pod = Pod::create(config);
  if (!pod || !(*pod)->namespace_fd(CLONE_NEWUTS)) return 2;
  return (*pod)->namespace_fd(CLONE_NEWIPC) || (*pod)->namespace_fd(CLONE_NEWPID) ? 3 : 0;
}

TEST(Pod, SharesNoNamespaceThatItsConfigDoesNotHave) { IN_A_GUEST(only_what_the_config_has); }

int bad_configs() {
  oci::Spec no_uts = pod_config();
  std::erase_if(no_uts.linux.namespaces, [](const auto& entry) { return entry.type == "uts"; });
  oci::Spec unknown = pod_config();
  unknown.linux.sysctl["kernel.no_such_thing"] = "1";
  const auto failed = Pod::create(unknown);
  return Pod::create(no_uts) || failed || failed.error().kind != ErrorKind::kNotFound ? 1 : 0;
}

TEST(Pod, RefusesANameWithoutANamespaceAndUnknownSysctls) { IN_A_GUEST(bad_configs); }

}  // namespace
}  // namespace kiln::agent
