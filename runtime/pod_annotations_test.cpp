// SPDX-License-Identifier: Apache-2.0
#include "runtime/pod_annotations.h"

#include <gtest/gtest.h>

#include "oci/parse.h"

namespace kiln::runtime {
namespace {

oci::Spec annotated(const oci::StringMap& annotations) {
  oci::Spec spec = oci::default_spec(false);
  spec.process->terminal = false;
  spec.annotations = annotations;
  return spec;
}

TEST(PodAnnotations, TellWhoIsASandbox) {
  const std::string containerd = "io.kubernetes.cri.container-type";
  const std::string crio = "io.kubernetes.cri-o.ContainerType";
  for (const std::string& name : {containerd, crio}) {
    EXPECT_EQ(pod_role(annotated({{name, "sandbox"}})), PodRole::kSandbox);
    EXPECT_EQ(pod_role(annotated({{name, "container"}})), PodRole::kContainer);
    EXPECT_EQ(pod_role(annotated({{name, "else"}})), PodRole::kNone);
  }
  EXPECT_EQ(pod_role(annotated({})), PodRole::kNone);
}

TEST(PodAnnotations, TellContainerdsContainersFromOthers) {
  const std::string containerd = "io.kubernetes.cri.container-type";
  EXPECT_TRUE(is_containerds_container(annotated({{containerd, "container"}})));
  EXPECT_FALSE(is_containerds_container(annotated({{containerd, "sandbox"}})));
  EXPECT_FALSE(
      is_containerds_container(annotated({{"io.kubernetes.cri-o.ContainerType", "container"}})));
  EXPECT_FALSE(is_containerds_container(annotated({})));
}

TEST(PodAnnotations, NameTheSandbox) {
  EXPECT_EQ(pod_id(annotated({{"io.kubernetes.cri.sandbox-id", "p1"}})), "p1");
  EXPECT_EQ(pod_id(annotated({{"io.kubernetes.cri-o.SandboxID", "p2"}})), "p2");
  EXPECT_EQ(pod_id(annotated({})), "");
}

TEST(PodAnnotations, LimitsAreNumbersThatSaySomething) {
  const PodLimits limits = pod_limits(annotated({{"io.kubernetes.cri.sandbox-memory", "1048576"},
                                                 {"io.kubernetes.cri.sandbox-cpu-quota", "150000"},
                                                 {"io.kubernetes.cri.sandbox-cpu-period", "0"}}));
  EXPECT_EQ(limits.memory_bytes, 1048576);
  EXPECT_EQ(limits.cpu_quota, 150'000);
  EXPECT_EQ(limits.cpu_period, 0U);
  for (const char* text : {"", "-1", "12M", "99999999999999999999", "many"})
    EXPECT_EQ(pod_limits(annotated({{"io.kubernetes.cri.sandbox-memory", text}})).memory_bytes, 0)
        << text;
}

TEST(PodSandbox, CannotJoinHaveATerminalOrMapUsers) {
  oci::Spec spec = annotated({});
  EXPECT_TRUE(check_pod_sandbox(spec, false));
  EXPECT_FALSE(check_pod_sandbox(spec, true));
  oci::Spec terminal = spec;
  terminal.process->terminal = true;
  EXPECT_FALSE(check_pod_sandbox(terminal, false));
  spec.linux.namespaces.push_back({"user", ""});
  EXPECT_FALSE(check_pod_sandbox(spec, false));
}

TEST(PodAnnotations, TheMachinesWeightIsThePods) {
  oci::Spec spec;
  spec.linux.resources.emplace().cpu.emplace().shares = 2;
  weigh_pod(spec);
  EXPECT_FALSE(spec.linux.resources->cpu->shares);
  spec.annotations["io.kubernetes.cri.sandbox-cpu-shares"] = "1024";
  weigh_pod(spec);
  EXPECT_EQ(spec.linux.resources->cpu->shares, 1024U);
}

}  // namespace
}  // namespace kiln::runtime
