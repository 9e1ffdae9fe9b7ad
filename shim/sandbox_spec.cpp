// SPDX-License-Identifier: Apache-2.0
#include "shim/sandbox_spec.h"

#include <nlohmann/json.hpp>

#include "base/format.h"
#include "oci/version.h"

namespace kiln::shim {
namespace {

constexpr const char* kPodConfig = "runtime.v1.PodSandboxConfig";

Json namespaces_of(const api::NamespaceOption& options, const std::string& network) {
  Json out = Json::array();
  for (const char* type : {"mount", "cgroup"}) out.push_back({{"type", type}});
  if (options.network() != api::NODE) {
    Json entry{{"type", "network"}};
    if (!network.empty()) entry["path"] = network;
    out.push_back(std::move(entry));
    out.push_back({{"type", "uts"}});
  }
  if (options.pid() != api::NODE) out.push_back({{"type", "pid"}});
  if (options.ipc() != api::NODE) out.push_back({{"type", "ipc"}});
  return out;
}

// As containerd's CRI plugin names them.
std::string cgroups_path(const std::string& parent, const std::string& id) {
  const std::string name = parent.substr(parent.rfind('/') + 1);
  if (name.ends_with(".slice")) return fmt::format("{}:cri-containerd:{}", name, id);
  return fmt::format("{}{}{}", parent, parent.ends_with('/') ? "" : "/", id);
}

}  // namespace

Result<api::PodSandboxConfig> pod_config(const api::CreateSandboxRequest& request) {
  api::PodSandboxConfig config;
  const api::Any& options = request.options();
  const std::string type = options.type_url().substr(options.type_url().rfind('/') + 1);
  if (type == kPodConfig) {
    if (!config.ParseFromString(options.value()))
      return invalid_argument("the pod's configuration cannot be decoded");
  } else if (!type.empty()) {
    return make_error(ErrorKind::kUnimplemented,
                      fmt::format("the sandbox's options: type `{}` is not known", type));
  }
  return config;
}

Result<Json> sandbox_spec(const api::CreateSandboxRequest& request) {
  const api::PodSandboxConfig config = TRY(pod_config(request));
  Json annotations = Json::object();
  for (const auto& [key, value] : request.annotations()) annotations[key] = value;
  for (const auto& [key, value] : config.annotations()) annotations[key] = value;
  annotations["io.kubernetes.cri.container-type"] = "sandbox";
  annotations["io.kubernetes.cri.sandbox-id"] = request.sandbox_id();
  const api::LinuxPodSandboxConfig& pod = config.linux();
  const api::LinuxContainerResources& resources = pod.resources();
  if (pod.has_resources()) {
    annotations["io.kubernetes.cri.sandbox-cpu-period"] = std::to_string(resources.cpu_period());
    annotations["io.kubernetes.cri.sandbox-cpu-quota"] = std::to_string(resources.cpu_quota());
    annotations["io.kubernetes.cri.sandbox-cpu-shares"] = std::to_string(resources.cpu_shares());
    annotations["io.kubernetes.cri.sandbox-memory"] =
        std::to_string(resources.memory_limit_in_bytes());
  }
  Json linux_part{{"namespaces", namespaces_of(pod.security_context().namespace_options(),
                                               request.netns_path())}};
  if (!pod.cgroup_parent().empty())
    linux_part["cgroupsPath"] = cgroups_path(pod.cgroup_parent(), request.sandbox_id());
  for (const auto& [key, value] : pod.sysctls()) linux_part["sysctl"][key] = value;
  Json out{
      {"ociVersion", oci::kSpecVersion},
      {"process", {{"args", {"/pause"}}, {"cwd", "/"}, {"user", {{"uid", 65535}, {"gid", 65535}}}}},
      {"root", {{"path", "rootfs"}, {"readonly", true}}},
      {"annotations", std::move(annotations)},
      {"linux", std::move(linux_part)}};
  if (!config.hostname().empty()) out["hostname"] = config.hostname();
  return out;
}

}  // namespace kiln::shim
