// SPDX-License-Identifier: Apache-2.0
#include "shim/task_options.h"

#include <unistd.h>

#include <algorithm>

#include "base/file.h"
#include "base/format.h"
#include "base/log.h"
#include "shim.pb.h"

namespace kiln::shim {
namespace {

constexpr const char* kRoot = "/run/containerd/kiln";
constexpr const char* kRootFile = "kiln-root";
constexpr const char* kOptionsFile = "kiln-options";
constexpr size_t kMaxOptionsBytes = size_t{1} << 20;
constexpr size_t kMaxPathBytes = 4096;

Result<void> apply_runc_options(const api::Any& any, const std::string& namespace_name,
                                runtime::PlanOptions& out) {
  api::RuncOptions options;
  if (!options.ParseFromString(any.value()))
    return invalid_argument("the runtime's options cannot be decoded");
  if (!options.binary_name().empty())
    log_warning("option BinaryName `{}`: the shim is the runtime, ignoring", options.binary_name());
  if (!options.shim_cgroup().empty())
    log_warning("option ShimCgroup `{}`: the shim stays where containerd has started it, ignoring",
                options.shim_cgroup());
  if (!options.root().empty()) out.root = options.root() + "/" + namespace_name;
  out.systemd_cgroup = out.systemd_cgroup || options.systemd_cgroup();
  return {};
}

Result<void> apply_runtime_options(const api::Any& any, runtime::PlanOptions& out) {
  api::RuntimeOptions options;
  if (!options.ParseFromString(any.value()))
    return invalid_argument("the runtime's options cannot be decoded");
  if (!options.config_body().empty())
    return make_error(ErrorKind::kUnimplemented,
                      "the runtime's options: the configuration must be a file (ConfigPath)");
  if (options.config_path().empty()) return {};
  out.config_path = options.config_path();
  out.config_given = true;
  return {};
}

// A kubelet that uses systemd names a slice, and containerd makes slice:prefix:name of it. Without
// systemd (sd_booted(3)) that is a path like any other, as for runc without SystemdCgroup.
bool is_systemd_path(const std::string& path) {
  return !path.starts_with('/') && std::count(path.begin(), path.end(), ':') == 2 &&
         access("/run/systemd/system", F_OK) == 0;
}

}  // namespace

std::string default_root(const std::string& namespace_name) {
  return fmt::format("{}/{}", kRoot, namespace_name);
}

Result<runtime::PlanOptions> plan_options(const api::Any& options,
                                          const std::string& namespace_name,
                                          const std::string& cgroups_path) {
  runtime::PlanOptions out;
  out.root = default_root(namespace_name);
  out.systemd_cgroup = is_systemd_path(cgroups_path);
  // type.googleapis.com/ in front is a matter of taste.
  const std::string& url = options.type_url();
  const std::string type = url.substr(url.rfind('/') + 1);
  if (type.empty()) return out;
  if (type == "containerd.runc.v1.Options") {
    TRY(apply_runc_options(options, namespace_name, out));
  } else if (type == "runtimeoptions.v1.Options") {
    TRY(apply_runtime_options(options, out));
  } else {
    return make_error(ErrorKind::kUnimplemented,
                      fmt::format("the runtime's options: type `{}` is not known", type));
  }
  return out;
}

Result<void> write_options(const std::string& bundle, const api::Any& options) {
  return write_file_atomic(bundle + "/" + kOptionsFile, options.SerializeAsString(), 0600);
}

api::Any read_options(const std::string& bundle) {
  api::Any options;
  const auto text = read_file(bundle + "/" + kOptionsFile, kMaxOptionsBytes);
  if (!text || !options.ParseFromString(*text)) return {};
  return options;
}

Result<void> write_root(const std::string& bundle, const std::string& root) {
  return write_file_atomic(bundle + "/" + kRootFile, root, 0600);
}

std::string read_root(const std::string& bundle, const std::string& namespace_name) {
  return read_file(bundle + "/" + kRootFile, kMaxPathBytes).value_or(default_root(namespace_name));
}

}  // namespace kiln::shim
