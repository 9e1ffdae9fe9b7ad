// SPDX-License-Identifier: Apache-2.0
#include "shim/bootstrap.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <optional>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/format.h"
#include "base/json.h"
#include "base/log.h"
#include "base/process.h"
#include "base/unix_socket.h"
#include "runtime/container_dir.h"
#include "runtime/features.h"
#include "shim.pb.h"
#include "shim/address.h"
#include "shim/container_job.h"
#include "shim/layers.h"
#include "shim/publisher.h"
#include "shim/server.h"
#include "shim/task_options.h"
#include "task.pb.h"

namespace kiln::shim {
namespace {

constexpr size_t kMaxConfigBytes = size_t{8} << 20;
constexpr uint32_t kKilledCode = 128 + SIGKILL;
constexpr int kTaskVersion = 2;
constexpr int kSandboxVersion = 3;  // with the sandbox service
// In this order, as in containerd's own shim.
constexpr const char* kGroupAnnotations[] = {"io.containerd.runc.v2.group",
                                             "io.kubernetes.cri.sandbox-id"};

// From 2.3 on containerd says everything on standard input; before, that is the runtime's options,
// which look different.
std::optional<api::BootstrapParams> bootstrap_params(const Arguments& arguments,
                                                     const std::string& input) {
  api::BootstrapParams params;
  if (!input.empty() && params.ParseFromString(input) && params.instance_id() == arguments.id &&
      params.namespace_() == arguments.namespace_name)
    return params;
  return std::nullopt;
}

// The runtime's options, of which there is at most one.
api::Any runtime_options(const std::optional<api::BootstrapParams>& params,
                         const std::string& input) {
  if (params) {
    for (const api::Extension& extension : params->extensions())
      if (extension.value().type_url().ends_with(".Options")) return extension.value();
    return {};
  }
  api::Any options;
  return options.ParseFromString(input) ? options : api::Any();
}

// As containerd's: a host without memory loses the container first, then its shim.
void set_oom_score(pid_t pid) {
  constexpr int kMost = 1000;
  const auto text = read_file(fmt::format("/proc/{}/oom_score_adj", getppid()), 64);
  if (!text) return;
  const int score = std::min(std::atoi(text->c_str()) + 1, kMost);
  static_cast<void>(write_file(fmt::format("/proc/{}/oom_score_adj", pid), std::to_string(score)));
}

Result<void> spawn_server(const Arguments& arguments, const UniqueFd& listener) {
  SpawnOptions options;
  options.program = TRY(own_executable());
  options.argv = {"containerd-shim-kiln-v2",
                  "-namespace",
                  arguments.namespace_name,
                  "-id",
                  arguments.id,
                  "-address",
                  arguments.address};
  if (arguments.debug) options.argv.emplace_back("-debug");
  options.fds = {{listener.get(), kListenerFd}};
  options.parent_death_signal = 0;
  options.new_session = true;
  const ChildProcess server = TRY(wrap(spawn(options), "start the shim's server"));
  set_oom_score(server.pid);
  return {};
}

// A shim that serves the group already, or a new one. Of two that look at the same time, the second
// finds the first's.
Result<void> ensure_server(const Arguments& arguments, const std::string& directory,
                           const std::string& path) {
  const UniqueFd lock = TRY(open_file(directory, O_RDONLY | O_DIRECTORY));
  if (retry_eintr([&] { return flock(lock.get(), LOCK_EX); }) != 0)
    return sys_error(fmt::format("lock `{}`", directory));
  if (is_served(path)) return {};
  unlink(path.c_str());
  const UniqueFd listener = TRY(listen_unix(path));
  auto spawned = spawn_server(arguments, listener);
  if (!spawned) unlink(path.c_str());
  return spawned;
}

std::optional<std::string> group_annotation(const Json& config) {
  const auto annotations = config.find("annotations");
  if (annotations == config.end() || !annotations->is_object()) return std::nullopt;
  for (const char* name : kGroupAnnotations) {
    const auto found = annotations->find(name);
    if (found != annotations->end() && found->is_string()) return found->get<std::string>();
  }
  return std::nullopt;
}

// A pod's machine has few drives to spare: layers of its containers are containerd's to mount.
bool is_alone(const std::string& config) {
  const auto json = parse_json(config);
  if (!json || !json->is_object() || !json->contains("process")) return false;
  return !group_annotation(*json);
}

std::string encode_start(const std::string& address, bool bootstrap, bool claims) {
  if (bootstrap) {
    api::BootstrapResult result;
    if (claims) {
      api::Any& value = *result.add_extensions()->mutable_value();
      value.set_type_url("containerd.types.MountCapabilities");
      value.set_value(mount_capabilities().SerializeAsString());
    }
    result.set_version(kSandboxVersion);
    result.set_address(address);
    result.set_protocol("ttrpc");
    return result.SerializeAsString();
  }
  // containerd before 1.7 knows an address and nothing else.
  if (std::getenv("MAX_SHIM_VERSION") == nullptr) return address;
  return dump_json({{"version", kTaskVersion}, {"address", address}, {"protocol", "ttrpc"}});
}

}  // namespace

std::string group_of(const std::string& config, const std::string& id) {
  const auto json = parse_json(config);
  if (!json || !json->is_object()) return id;
  return group_annotation(*json).value_or(id);
}

Result<std::string> start(const Arguments& arguments, const std::string& input) {
  TRY(runtime::check_container_id(arguments.id));
  const auto params = bootstrap_params(arguments, input);
  const std::string directory = params && !params->socket_dir().empty()
                                    ? params->socket_dir()
                                    : std::string(kSocketDirectory);
  // A sandbox of the sandbox API may have no config of its own.
  const std::string config = read_file("config.json", kMaxConfigBytes).value_or("");
  TRY(write_options(".", runtime_options(params, input)));
  TRY(make_directories(directory, 0711));
  const std::string path = socket_path(directory, arguments.address, arguments.namespace_name,
                                       group_of(config, arguments.id));
  TRY(ensure_server(arguments, directory, path));
  const std::string address = kScheme + path;
  TRY(write_file_atomic("address", address, 0600));
  return encode_start(address, params.has_value(), is_alone(config));
}

Result<std::string> clean_up(const Arguments& arguments) {
  TRY(runtime::check_container_id(arguments.id));
  std::error_code failed;
  const std::string here = std::filesystem::current_path(failed);
  const std::string bundle = !arguments.bundle.empty() ? arguments.bundle : here;
  const std::string root = read_root(bundle, arguments.namespace_name);
  api::DeleteResponse response;
  response.set_exit_status(kKilledCode);
  if (const auto dir = runtime::ContainerDir::open(root, arguments.id)) {
    if (const auto record = dir->read_record()) {
      response.set_pid(static_cast<uint32_t>(record->state.pid));
      if (record->exit_code) response.set_exit_status(static_cast<uint32_t>(*record->exit_code));
    }
  }
  TRY(remove_container(root, arguments.id, bundle));
  if (const auto address = read_file(bundle + "/address", 4096))
    remove_dead_socket(without_scheme(*address));
  *response.mutable_exited_at() = now();
  return response.SerializeAsString();
}

Result<std::string> info(const std::string& input) {
  api::RuntimeInfo out;
  out.set_name("io.containerd.kiln.v2");
  out.mutable_version()->set_version(KILN_VERSION);
  if (!input.empty()) {
    api::Any options;
    if (!options.ParseFromString(input))
      return invalid_argument("the runtime's options cannot be decoded");
    *out.mutable_options() = options;
  }
  out.mutable_features()->set_type_url(
      "types.containerd.io/opencontainers/runtime-spec/1/features/Features");
  out.mutable_features()->set_value(dump_json(runtime::runtime_features()));
  return out.SerializeAsString();
}

}  // namespace kiln::shim
