// SPDX-License-Identifier: Apache-2.0
#include "runtime/container_plan.h"

#include <unistd.h>

#include <climits>
#include <cstdlib>

#include "base/file.h"
#include "base/format.h"
#include "base/log.h"
#include "oci/parse.h"
#include "runtime/pod_annotations.h"
#include "runtime/spec_check.h"

namespace kiln::runtime {
namespace {

constexpr size_t kMaxConfigBytes = size_t{8} << 20;

// As runc decides it for cgroups: without full power over this host unless the user says so.
Result<bool> is_rootless(const std::string& flag) {
  if (flag == "true" || flag == "1") return true;
  if (flag == "false" || flag == "0") return false;
  if (flag != "auto") return invalid_argument(fmt::format("invalid value for rootless: {}", flag));
  if (geteuid() != 0) return true;
  const std::string map = TRY(read_file("/proc/self/uid_map", 4096));
  // user_namespaces(7): the initial namespace maps everything onto itself.
  return map.find("4294967295") == std::string::npos;
}

// Engines put every device of the host into a privileged container's config. Its disks stay with
// the host: nobody has chosen them, and most are in use.
void leave_host_disks(oci::Spec& spec) {
  if (!oci::allows_all_devices(spec.linux)) return;
  const size_t left = std::erase_if(spec.linux.devices,
                                    [](const oci::Device& device) { return device.type == "b"; });
  if (left > 0)
    log_warning("privileged: the {} block devices of the config stay with the host, ignoring",
                left);
}

}  // namespace

Result<std::string> absolute_path(const std::string& path, const char* what) {
  std::string resolved(PATH_MAX, '\0');
  if (realpath(path.c_str(), resolved.data()) == nullptr)
    return sys_error(fmt::format("{} `{}`", what, path));
  resolved.resize(std::char_traits<char>::length(resolved.c_str()));
  return resolved;
}

Result<oci::Spec> load_spec(const std::string& bundle) {
  const std::string path = bundle + "/config.json";
  auto text = read_file(path, kMaxConfigBytes);
  if (!text && text.error().sys_errno == ENOENT)
    return make_error(ErrorKind::kNotFound,
                      fmt::format("JSON specification file `{}` not found", path));
  std::vector<std::string> warnings;
  const std::string config = TRY(std::move(text));
  oci::Spec spec = TRY(oci::parse_spec_text(config, &warnings));
  for (const std::string& warning : warnings) log_debug("{}", warning);
  return spec;
}

Result<NewContainer> prepare_from_spec(const PlanOptions& options, const std::string& id,
                                       const std::string& bundle, oci::Spec spec,
                                       const MachineWishes& wishes) {
  TRY(check_container_id(id));
  std::vector<std::string> warnings;
  auto join = TRY(find_sandbox(options.root, spec));
  TRY(check_spec(spec, warnings, join.has_value()));
  for (const std::string& warning : warnings) log_warning("{}", warning);
  leave_host_disks(spec);
  if (pod_role(spec) == PodRole::kSandbox) weigh_pod(spec);
  NewContainer out;
  TRY(make_directories(options.root, 0711));
  out.root = TRY(absolute_path(options.root, "--root"));
  if (!options.log.empty()) out.log_path = TRY(absolute_path(options.log, "--log"));
  out.plan.id = id;
  out.plan.bundle = bundle;
  out.plan.spec = std::move(spec);
  out.plan.join = std::move(join);
  out.plan.log_level = static_cast<int>(log_level());
  out.plan.log_format = static_cast<int>(log_format());
  out.cgroup.systemd = options.systemd_cgroup;
  out.cgroup.rootless = TRY(is_rootless(options.rootless));
  if (out.cgroup.rootless && !out.plan.spec.linux.net_devices.empty())
    return make_error(ErrorKind::kPermissionDenied,
                      "config.json: /linux/netDevices: only root can move network devices");
  TRY(plan_machine(options, wishes, out.plan));
  if (out.plan.join && out.plan.network == NetworkMode::kPasst)
    return invalid_argument(
        fmt::format("network mode passt: the container shares the network of sandbox {}",
                    out.plan.join->owner));
  return out;
}

}  // namespace kiln::runtime
