// SPDX-License-Identifier: Apache-2.0
#include "runtime/host_check/host_check.h"

#include <gtest/gtest.h>

#include <set>

namespace kiln::runtime {
namespace {

using Level = Finding::Level;

TEST(HostCheck, OldKernelIsAProblem) {
  EXPECT_EQ(check_kernel_release("6.1.0-56-cloud-amd64").level, Level::kOk);
  EXPECT_EQ(check_kernel_release("5.9.0").level, Level::kOk);
  EXPECT_EQ(check_kernel_release("5.8.18").level, Level::kProblem);
  EXPECT_EQ(check_kernel_release("4.19").level, Level::kProblem);
  EXPECT_EQ(check_kernel_release("hurd").level, Level::kWarning);
}

TEST(HostCheck, KvmIsUsableOrOnlyPresentOrAbsent) {
  vmm::BackendChoice choice{};
  choice.kvm_device_present = choice.hardware_virtualization = true;
  EXPECT_EQ(check_kvm(choice).level, Level::kOk);
  choice.hardware_virtualization = false;
  choice.reason = "qemu with tcg: nothing behind /dev/kvm";
  const Finding present = check_kvm(choice);
  EXPECT_EQ(present.level, Level::kWarning);
  EXPECT_EQ(present.text, "/dev/kvm counts as absent: nothing behind /dev/kvm");
  choice.kvm_device_present = false;
  EXPECT_EQ(check_kvm(choice).text, "there is no /dev/kvm");
  EXPECT_EQ(check_kvm(make_error(ErrorKind::kInternal, "x")).text, "x");
}

TEST(HostCheck, CgroupLayouts) {
  const char* v1 = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n";
  const char* v2_beside = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
  EXPECT_EQ(check_cgroups("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n").text, "unified (v2)");
  EXPECT_TRUE(check_cgroups(std::string(v1) + v2_beside).text.starts_with("hybrid"));
  EXPECT_TRUE(check_cgroups(v1).text.starts_with("legacy"));
  EXPECT_EQ(check_cgroups("proc /proc proc rw 0 0\n").level, Level::kWarning);
  EXPECT_EQ(check_cgroups("junk").level, Level::kWarning);
}

TEST(HostCheck, HugePagesMatterWithKvmOnNewKernels) {
  const std::string plain = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
  const std::string favors = "cgroup2 /sys/fs/cgroup cgroup2 rw,favordynmods 0 0\n";
  EXPECT_EQ(check_huge_pages("6.1.0", true, "Y", plain).level, Level::kWarning);
  EXPECT_EQ(check_huge_pages("6.1.0", true, "N", plain).level, Level::kWarning);
  EXPECT_EQ(check_huge_pages("6.1.0", true, "", plain).level, Level::kWarning);
  EXPECT_EQ(check_huge_pages("6.1.0", true, "never", plain).level, Level::kOk);
  EXPECT_EQ(check_huge_pages("6.12.1", true, "Y", favors).level, Level::kOk);
  EXPECT_EQ(check_huge_pages("5.10.0", true, "Y", plain).level, Level::kOk);
  EXPECT_EQ(check_huge_pages("6.1.0", false, "Y", plain).level, Level::kOk);
}

const Finding& finding_of(const std::vector<Finding>& findings, const std::string& subject) {
  for (const Finding& finding : findings) {
    if (finding.subject == subject) return finding;
  }
  static const Finding kNone{Level::kOk, "none", "", ""};
  ADD_FAILURE() << "no finding about " << subject;
  return kNone;
}

TEST(HostCheck, MissingPartsAreProblemsThatSayWhere) {
  Config config;
  config.vmm_binary = "/nonexistent/kiln-vmm";
  config.guest.directory = "/nonexistent/guest";
  config.qemu.binary = "/nonexistent/qemu";
  config.backend = vmm::Backend::kQemu;
  HostPaths paths;
  paths.dev = "/nonexistent/dev";
  const auto findings = check_host(config, paths);
  for (const char* subject : {"vmm", "guest", "qemu"}) {
    const Finding& finding = finding_of(findings, subject);
    EXPECT_EQ(finding.level, Level::kProblem) << subject;
    EXPECT_NE(finding.text.find("/nonexistent/"), std::string::npos) << finding.text;
  }
  EXPECT_EQ(finding_of(findings, "tun").level, Level::kWarning);
  EXPECT_EQ(finding_of(findings, "vhost").level, Level::kOk);
}

TEST(HostCheck, EverySubjectIsThereOnceOnOneLine) {
  std::set<std::string> subjects;
  for (const Finding& finding : check_host(Config())) {
    EXPECT_TRUE(subjects.insert(finding.subject).second) << finding.subject;
    EXPECT_EQ(finding.text.find('\n'), std::string::npos) << finding.text;
    EXPECT_NE(finding.text, "");
  }
  for (const char* subject : {"kvm", "backend", "qemu", "guest", "vhost", "tun", "cgroup"})
    EXPECT_TRUE(subjects.contains(subject)) << subject;
}

TEST(HostCheck, TooLittleMemoryIsAWarning) {
  Config config;
  config.machine.memory_mib = kMaxGuestMemoryMib;
  EXPECT_EQ(finding_of(check_host(config), "memory").level, Level::kWarning);
}

}  // namespace
}  // namespace kiln::runtime
