// SPDX-License-Identifier: Apache-2.0
#include "runtime/spec_check.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "oci/parse.h"
#include "runtime/container_exec.h"
#include "runtime/signals.h"

namespace kiln::runtime {
namespace {

std::string refusal(const oci::Spec& spec) {
  std::vector<std::string> warnings;
  const auto checked = check_spec(spec, warnings);
  return checked ? "" : checked.error().message;
}

TEST(SpecCheck, TheDefaultSpecPassesWithoutAWord) {
  std::vector<std::string> warnings;
  EXPECT_TRUE(check_spec(oci::default_spec(false), warnings));
  EXPECT_TRUE(warnings.empty());
}

TEST(SpecCheck, HostNetworkingIsRefusedInOneLine) {
  oci::Spec spec = oci::default_spec(false);
  std::erase_if(spec.linux.namespaces, [](const auto& n) { return n.type == "network"; });
  EXPECT_EQ(check_network(spec, NetworkMode::kNamespace).error().message,
            "config.json: /linux/namespaces: has no network namespace, and a container in a VM "
            "cannot use the host's network; the annotation `io.kiln.network: passt` gives it the "
            "host's connectivity");
  EXPECT_TRUE(check_network(spec, NetworkMode::kPasst));
  spec.linux.net_devices["eth0"] = {};
  EXPECT_FALSE(check_network(spec, NetworkMode::kPasst));
  EXPECT_TRUE(check_network(oci::default_spec(false), NetworkMode::kNamespace));
}

TEST(SpecCheck, OnlyANetworkNamespaceMayHaveAPath) {
  for (oci::Namespace& entry : oci::default_spec(false).linux.namespaces) {
    oci::Spec spec = oci::default_spec(false);
    for (auto& candidate : spec.linux.namespaces) {
      if (candidate.type == entry.type) candidate.path = "/proc/1/ns/x";
    }
    EXPECT_EQ(refusal(spec).empty(), entry.type == "network") << entry.type;
  }
}

TEST(SpecCheck, WhatCannotCrossAVmIsRefused) {
  oci::Spec rdt = oci::default_spec(false);
  rdt.linux.intel_rdt.emplace();
  EXPECT_NE(refusal(rdt).find("/linux/intelRdt"), std::string::npos);
  oci::Spec listener = oci::default_spec(false);
  listener.linux.seccomp.emplace().listener_path = "/run/listener";
  EXPECT_NE(refusal(listener).find("listenerPath"), std::string::npos);
  oci::Spec no_process = oci::default_spec(false);
  no_process.process.reset();
  EXPECT_NE(refusal(no_process).find("/process"), std::string::npos);
}

TEST(SpecCheck, WhatHasNoEffectIsSaid) {
  oci::Spec spec = oci::default_spec(false);
  spec.process->apparmor_profile = "profile";
  spec.linux.mount_label = "label";
  std::vector<std::string> warnings;
  ASSERT_TRUE(check_spec(spec, warnings));
  EXPECT_EQ(warnings.size(), 2U);
}

TEST(SpecCheck, MemoryMembersThatCgroupV2LacksAreSaid) {
  oci::Spec spec = oci::default_spec(false);
  oci::MemoryResources& memory = spec.linux.resources.emplace().memory.emplace();
  memory.kernel = 1 << 20;
  memory.swappiness = 10;
  memory.use_hierarchy = false;
  std::vector<std::string> warnings;
  EXPECT_TRUE(check_spec(spec, warnings));
  ASSERT_EQ(warnings.size(), 3U);
  EXPECT_TRUE(warnings[1].starts_with("/linux/resources/memory/swappiness: "));
}

TEST(VmSize, DefaultsHoldWithoutLimits) {
  const VmSize size = size_vm(oci::default_spec(false), {1, 256, 96, 8});
  EXPECT_EQ(size.vcpus, 1U);
  EXPECT_EQ(size.memory_mib, 256U);
}

TEST(VmSize, LimitsSizeTheMachine) {
  oci::Spec spec = oci::default_spec(false);
  auto& resources = spec.linux.resources.emplace();
  resources.memory.emplace().limit = (int64_t{100} << 20) + 1;
  resources.cpu.emplace().quota = 250'000;
  const VmSize size = size_vm(spec, {1, 256, 96, 8});
  EXPECT_EQ(size.memory_mib, 197U);
  EXPECT_EQ(size.vcpus, 3U);
  EXPECT_EQ(size_vm(spec, {1, 256, 96, 2}).vcpus, 2U) << "not more than the host has";
}

TEST(VmSize, ACpusetHasOneVcpuForEachCpu) {
  oci::Spec spec = oci::default_spec(false);
  auto& cpu = spec.linux.resources.emplace().cpu.emplace();
  cpu.cpus = "0-2,5,2";
  const VmSize size = size_vm(spec, {1, 256, 96, 8});
  EXPECT_EQ(size.vcpus, 4U);
  EXPECT_TRUE(size.vcpus_from_limits);
  cpu.quota = 150'000;
  EXPECT_EQ(size_vm(spec, {1, 256, 96, 8}).vcpus, 2U) << "the tighter of the two";
  EXPECT_FALSE(size_vm(oci::default_spec(false), {1, 256, 96, 8}).vcpus_from_limits);
}

TEST(UsableCpus, IsBoundedHoweverLongTheList) {
  oci::CpuResources cpu;
  cpu.cpus = "0-18446744073709551615";
  EXPECT_EQ(usable_cpus(cpu), 8192U);
  EXPECT_EQ(usable_cpus({}), 0U);
  EXPECT_EQ(usable_cpus({.quota = INT64_MAX, .period = 0}), 8192U);
  EXPECT_EQ(usable_cpus({.quota = 100'001, .period = 0}), 2U);
}

TEST(VmSize, UnlimitedIsNoLimit) {
  oci::Spec spec = oci::default_spec(false);
  auto& resources = spec.linux.resources.emplace();
  resources.memory.emplace().limit = -1;
  resources.cpu.emplace().quota = -1;
  EXPECT_EQ(size_vm(spec, {2, 512, 96, 8}).memory_mib, 512U);
  EXPECT_EQ(size_vm(spec, {2, 512, 96, 8}).vcpus, 2U);
}

TEST(VmSize, APodsSandboxHasRoomForItsContainers) {
  oci::Spec spec = oci::default_spec(false);
  spec.annotations = {{"io.kubernetes.cri.sandbox-memory", "536870912"},
                      {"io.kubernetes.cri.sandbox-cpu-period", "50000"},
                      {"io.kubernetes.cri.sandbox-cpu-quota", "125000"}};
  EXPECT_EQ(size_vm(spec, {1, 256, 96, 8}).memory_mib, 256U) << "its containers have them too";
  spec.annotations["io.kubernetes.cri.container-type"] = "sandbox";
  VmSize size = size_vm(spec, {1, 256, 96, 8});
  EXPECT_EQ(size.memory_mib, 608U);
  EXPECT_EQ(size.vcpus, 3U);
  EXPECT_TRUE(size.vcpus_from_limits);
  auto& resources = spec.linux.resources.emplace();
  resources.memory.emplace().limit = 128 << 20;
  resources.cpu.emplace().quota = 100'000;
  size = size_vm(spec, {1, 256, 96, 8});
  EXPECT_EQ(size.memory_mib, 224U) << "its own limits count";
  EXPECT_EQ(size.vcpus, 1U);
  resources = {};
  spec.annotations["io.kubernetes.cri.sandbox-memory"] = "0";
  EXPECT_EQ(size_vm(spec, {2, 256, 96, 8}).memory_mib, 256U);
}

TEST(Signals, NamesAndNumbers) {
  EXPECT_EQ(*parse_signal("KILL"), 9);
  EXPECT_EQ(*parse_signal("SIGTERM"), 15);
  EXPECT_EQ(*parse_signal("usr2"), 12);
  EXPECT_EQ(*parse_signal("28"), 28);
  EXPECT_EQ(*parse_signal("0"), 0);  // kill(2): asks only whether it is there
  EXPECT_EQ(*parse_signal("SIGRTMIN+3"), 37);
  EXPECT_EQ(*parse_signal("RTMAX-1"), 63);
  for (const char* bad : {"", "NOSUCH", "65", "-1", "9x", "RTMIN+99", "SIG"}) {
    const auto parsed = parse_signal(bad);
    ASSERT_FALSE(parsed) << bad;
    EXPECT_EQ(parsed.error().message, "unknown signal \"" + std::string(bad) + "\"");
  }
}

TEST(ExecProcess, FlagsChangeTheContainersProcess) {
  ExecChanges changes;
  changes.args = {"id"};
  changes.user = "12:34";
  changes.additional_gids = {5};
  changes.env = {"A=b"};
  changes.cwd = "/tmp";
  changes.capabilities = {"CAP_SYS_TIME"};
  changes.terminal = true;
  const auto process = exec_process(*oci::default_spec(false).process, changes);
  ASSERT_TRUE(process) << process.error().message;
  EXPECT_EQ(process->user.uid, 12U);
  EXPECT_EQ(process->user.gid, 34U);
  EXPECT_EQ(process->user.additional_gids, std::vector<uint32_t>{5});
  EXPECT_EQ(process->cwd, "/tmp");
  EXPECT_EQ(process->env.back(), "A=b");
  EXPECT_TRUE(process->terminal);
  const auto& effective = process->capabilities->effective;
  EXPECT_EQ(std::count(effective.begin(), effective.end(), "CAP_SYS_TIME"), 1);
}

TEST(ExecProcess, BadFlagsAreRefused) {
  for (const char* user : {"root", "", "1:", ":1", "1:2:3", "-1", "4294967296"}) {
    ExecChanges changes;
    changes.args = {"id"};
    changes.user = user;
    EXPECT_FALSE(exec_process(*oci::default_spec(false).process, changes)) << user;
  }
  ExecChanges capability;
  capability.args = {"id"};
  capability.capabilities = {"CAP_NOSUCH"};
  EXPECT_FALSE(exec_process(*oci::default_spec(false).process, capability));
}

}  // namespace
}  // namespace kiln::runtime
