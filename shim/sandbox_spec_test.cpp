// SPDX-License-Identifier: Apache-2.0
#include "shim/sandbox_spec.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/temporary_directory.h"
#include "oci/parse.h"
#include "runtime/pod_annotations.h"
#include "shim/sandbox_files.h"

namespace kiln::shim {
namespace {

api::CreateSandboxRequest request_of(const api::PodSandboxConfig& config) {
  api::CreateSandboxRequest request;
  request.set_sandbox_id("pod");
  request.set_netns_path("/run/netns/cni-1");
  request.mutable_options()->set_type_url("type.googleapis.com/runtime.v1.PodSandboxConfig");
  request.mutable_options()->set_value(config.SerializeAsString());
  return request;
}

oci::Spec parsed(const Json& json) {
  std::vector<std::string> warnings;
  auto spec = oci::parse_spec(json, &warnings);
  EXPECT_TRUE(spec) << spec.error().message;
  return *spec;
}

TEST(SandboxSpec, IsAConfigOfAPodsSandbox) {
  api::PodSandboxConfig config;
  config.set_hostname("the-pod");
  (*config.mutable_annotations())["example.org/mine"] = "kept";
  config.mutable_linux()->set_cgroup_parent("/kubepods/pod1");
  (*config.mutable_linux()->mutable_sysctls())["kernel.shmmni"] = "123";
  config.mutable_linux()->mutable_resources()->set_memory_limit_in_bytes(256 << 20);
  const auto json = sandbox_spec(request_of(config));
  ASSERT_TRUE(json) << json.error().message;
  const oci::Spec spec = parsed(*json);
  EXPECT_EQ(runtime::pod_role(spec), runtime::PodRole::kSandbox);
  EXPECT_EQ(runtime::pod_id(spec), "pod");
  EXPECT_EQ(runtime::pod_limits(spec).memory_bytes, 256 << 20);
  EXPECT_EQ(spec.hostname, "the-pod");
  EXPECT_EQ(spec.annotations.at("example.org/mine"), "kept");
  EXPECT_EQ(spec.linux.cgroups_path, "/kubepods/pod1/pod");
  EXPECT_EQ(spec.linux.sysctl.at("kernel.shmmni"), "123");
  EXPECT_EQ(oci::find_namespace(spec.linux, "network")->path, "/run/netns/cni-1");
  for (const char* type : {"pid", "ipc", "uts", "mount"})
    EXPECT_NE(oci::find_namespace(spec.linux, type), nullptr) << type;
}

TEST(SandboxSpec, LeavesTheHostsNamespacesOut) {
  api::PodSandboxConfig config;
  auto* options = config.mutable_linux()->mutable_security_context()->mutable_namespace_options();
  options->set_network(api::NODE);
  options->set_pid(api::NODE);
  options->set_ipc(api::NODE);
  const auto json = sandbox_spec(request_of(config));
  ASSERT_TRUE(json);
  const oci::Spec spec = parsed(*json);
  for (const char* type : {"network", "uts", "pid", "ipc"})
    EXPECT_EQ(oci::find_namespace(spec.linux, type), nullptr) << type;
}

TEST(SandboxSpec, NamesSystemdsScopeAsContainerdDoes) {
  api::PodSandboxConfig config;
  config.mutable_linux()->set_cgroup_parent("/kubepods.slice/kubepods-pod1.slice");
  const auto json = sandbox_spec(request_of(config));
  ASSERT_TRUE(json);
  EXPECT_EQ((*json)["linux"]["cgroupsPath"], "kubepods-pod1.slice:cri-containerd:pod");
}

TEST(SandboxSpec, WithoutOptionsItIsASandboxAllTheSame) {
  api::CreateSandboxRequest request;
  request.set_sandbox_id("pod");
  const auto json = sandbox_spec(request);
  ASSERT_TRUE(json);
  EXPECT_EQ(runtime::pod_role(parsed(*json)), runtime::PodRole::kSandbox);
}

TEST(SandboxSpec, OptionsOfAnotherTypeAreRefused) {
  api::CreateSandboxRequest request;
  request.mutable_options()->set_type_url("example.org/Other");
  EXPECT_EQ(sandbox_spec(request).error().kind, ErrorKind::kUnimplemented);
  request = request_of({});
  request.mutable_options()->set_value("\xff\xff");
  EXPECT_EQ(sandbox_spec(request).error().kind, ErrorKind::kInvalidArgument);
}

TEST(SandboxFiles, AreBoundWhereTheConfigHasNothing) {
  const TemporaryDirectory bundle = std::move(*TemporaryDirectory::create("/tmp", "sandbox"));
  ASSERT_TRUE(write_file_atomic(bundle.path() + "/resolv.conf", "nameserver 1.1.1.1\n", 0644));
  ASSERT_TRUE(write_file_atomic(bundle.path() + "/hosts", "", 0644));
  ASSERT_TRUE(make_directories(bundle.path() + "/shm", 0700));
  oci::Spec spec;
  oci::Mount hosts;
  hosts.destination = "/etc/hosts";
  hosts.source = "/var/lib/kubelet/etc-hosts";
  oci::Mount shared;
  shared.destination = "/dev/shm";
  shared.type = "tmpfs";
  spec.mounts = {hosts, shared};
  add_sandbox_files(bundle.path(), spec);
  ASSERT_EQ(spec.mounts.size(), 3U);
  EXPECT_EQ(spec.mounts[0].source, "/var/lib/kubelet/etc-hosts");
  EXPECT_EQ(spec.mounts[1].source, bundle.path() + "/shm");
  EXPECT_EQ(spec.mounts[2].destination, "/etc/resolv.conf");
  EXPECT_TRUE(remove_sandbox_files(bundle.path()));
}

}  // namespace
}  // namespace kiln::shim
