// SPDX-License-Identifier: Apache-2.0
#include "runtime/pod_annotations.h"

#include <algorithm>
#include <charconv>

#include "base/format.h"

namespace kiln::runtime {
namespace {

constexpr const char* kTypes[] = {"io.kubernetes.cri.container-type",
                                  "io.kubernetes.cri-o.ContainerType"};
constexpr const char* kIds[] = {"io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"};
constexpr const char* kMemory = "io.kubernetes.cri.sandbox-memory";
constexpr const char* kCpuQuota = "io.kubernetes.cri.sandbox-cpu-quota";
constexpr const char* kCpuPeriod = "io.kubernetes.cri.sandbox-cpu-period";
constexpr const char* kCpuShares = "io.kubernetes.cri.sandbox-cpu-shares";
constexpr uint64_t kLeastShares = 2;  // what containerd gives to who asks for nothing

template <size_t N>
std::string first_of(const oci::Spec& spec, const char* const (&names)[N]) {
  for (const char* name : names) {
    const auto found = spec.annotations.find(name);
    if (found != spec.annotations.end()) return found->second;
  }
  return {};
}

template <typename Number>
Number positive(const oci::Spec& spec, const char* name) {
  const auto found = spec.annotations.find(name);
  if (found == spec.annotations.end()) return 0;
  const std::string& text = found->second;
  Number value = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failed != std::errc() || end != text.data() + text.size()) return 0;
  return std::max<Number>(value, 0);
}

tl::unexpected<Error> refuse(const char* pointer, const char* why) {
  return make_error(ErrorKind::kUnimplemented, fmt::format("config.json: {}: {}", pointer, why));
}

}  // namespace

PodRole pod_role(const oci::Spec& spec) {
  const std::string type = first_of(spec, kTypes);
  if (type == "sandbox") return PodRole::kSandbox;
  return type == "container" ? PodRole::kContainer : PodRole::kNone;
}

bool is_containerds_container(const oci::Spec& spec) {
  const auto found = spec.annotations.find(kTypes[0]);
  return found != spec.annotations.end() && found->second == "container";
}

std::string pod_id(const oci::Spec& spec) { return first_of(spec, kIds); }

PodLimits pod_limits(const oci::Spec& spec) {
  return {positive<int64_t>(spec, kMemory), positive<int64_t>(spec, kCpuQuota),
          positive<uint64_t>(spec, kCpuPeriod), positive<uint64_t>(spec, kCpuShares)};
}

void weigh_pod(oci::Spec& spec) {
  const uint64_t shares = pod_limits(spec).cpu_shares;
  auto& resources = spec.linux.resources;
  if (shares > kLeastShares) {
    if (!resources) resources.emplace();
    if (!resources->cpu) resources->cpu.emplace();
    resources->cpu->shares = shares;
  } else if (resources && resources->cpu) {
    resources->cpu->shares.reset();
  }
}

Result<void> check_pod_sandbox(const oci::Spec& spec, bool joins) {
  if (joins)
    return refuse("/linux/namespaces",
                  "a pod's sandbox has a machine of its own, and its network namespace is another "
                  "sandbox's");
  if (oci::find_namespace(spec.linux, "user") != nullptr)
    return refuse("/linux/namespaces", "the containers of a pod cannot share a user namespace");
  if (spec.process->terminal)
    return refuse("/process/terminal", "a pod's sandbox runs no process that could have one");
  return {};
}

}  // namespace kiln::runtime
