// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/bundle.h"

#include <unistd.h>

#include <climits>
#include <cstdlib>

#include "base/file.h"
#include "base/format.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "oci/parse.h"
#include "runtime/container_delete.h"
#include "runtime/passed_fds.h"
#include "runtime/pidfd_socket.h"
#include "runtime/spec_check.h"

namespace kiln::runtime {
namespace {

constexpr size_t kMaxConfigBytes = size_t{8} << 20;

Result<std::string> absolute_path(const std::string& path, const char* what) {
  std::string resolved(PATH_MAX, '\0');
  if (realpath(path.c_str(), resolved.data()) == nullptr)
    return sys_error(fmt::format("{} `{}`", what, path));
  resolved.resize(std::char_traits<char>::length(resolved.c_str()));
  return resolved;
}

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

}  // namespace

void add_create_flags(const Command& command, CreateFlags& flags) {
  command.option("container-id", flags.id, "the container's name, unique on this host").required();
  command.option("-b,--bundle", flags.bundle,
                 "directory with config.json; the current one by default");
  command.option("--pid-file", flags.pid_file, "file to write the process id to");
  command.option("--console-socket", flags.console_socket,
                 "AF_UNIX socket that receives the terminal's master");
  command.option("--pidfd-socket", flags.pidfd_socket,
                 "AF_UNIX socket that receives a pidfd of the container's process");
  command.flag("--no-pivot", flags.no_pivot, "accepted; the guest decides how it enters a rootfs");
  command.flag("--no-new-keyring", flags.no_new_keyring,
               "accepted; the guest has keyrings of its own");
  command.option("--preserve-fds", flags.preserve_fds,
                 "so many descriptors behind LISTEN_FDS go to the container: sockets and pipes");
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

Result<NewContainer> prepare_from_spec(const Globals& globals, const std::string& id,
                                       const std::string& bundle, oci::Spec spec,
                                       const MachineWishes& wishes) {
  TRY(check_container_id(id));
  std::vector<std::string> warnings;
  auto join = TRY(find_sandbox(globals.root, spec));
  TRY(check_spec(spec, warnings, join.has_value()));
  for (const std::string& warning : warnings) log_warning("{}", warning);
  NewContainer out;
  TRY(make_directories(globals.root, 0711));
  out.root = TRY(absolute_path(globals.root, "--root"));
  if (!globals.log.empty()) out.log_path = TRY(absolute_path(globals.log, "--log"));
  out.plan.id = id;
  out.plan.bundle = bundle;
  out.plan.spec = std::move(spec);
  out.plan.join = std::move(join);
  out.plan.log_level = static_cast<int>(log_level());
  out.plan.log_format = static_cast<int>(log_format());
  out.cgroup.systemd = globals.systemd_cgroup;
  out.cgroup.rootless = TRY(is_rootless(globals.rootless));
  if (out.cgroup.rootless && !out.plan.spec.linux.net_devices.empty())
    return make_error(ErrorKind::kPermissionDenied,
                      "config.json: /linux/netDevices: only root can move network devices");
  TRY(plan_machine(globals, wishes, out.plan));
  if (out.plan.join && out.plan.network == NetworkMode::kPasst)
    return invalid_argument(
        fmt::format("network mode passt: the container shares the network of sandbox {}",
                    out.plan.join->owner));
  return out;
}

Result<NewContainer> prepare_container(const Globals& globals, const CreateFlags& flags) {
  TRY(check_container_id(flags.id));
  if (flags.preserve_fds < 0) return invalid_argument("--preserve-fds: must not be negative");
  const size_t listening = TRY(listen_fds());
  const auto preserved = static_cast<size_t>(flags.preserve_fds);
  std::vector<protocol::Passed> passed = TRY(passed_kinds(listening + preserved, preserved));
  const std::string bundle =
      TRY(absolute_path(flags.bundle.empty() ? "." : flags.bundle, "bundle"));
  oci::Spec spec = TRY(load_spec(bundle));
  NewContainer out =
      TRY(prepare_from_spec(globals, flags.id, bundle, std::move(spec), MachineWishes()));
  out.plan.passed = std::move(passed);
  out.plan.listen_fds = listening;
  for (size_t i = 0; i < out.plan.passed.size(); ++i)
    out.passed.emplace_back(protocol::kFirstPassedFd + static_cast<int>(i));
  const char* notify_socket = std::getenv("NOTIFY_SOCKET");
  if (notify_socket != nullptr) out.plan.notify_socket = notify_socket;
  return out;
}

void remove_quietly(const Globals& globals, const std::string& id) {
  if (auto removed = delete_container(globals.root, id, true); !removed)
    log_warning("delete container {}: {}, ignoring", id, removed.error().message);
}

Result<UniqueFd> connect_pidfd_socket(const CreateFlags& flags) {
  if (flags.pidfd_socket.empty()) return UniqueFd();
  return connect_unix(flags.pidfd_socket);
}

Result<void> announce_container(const Globals& globals, const CreateFlags& flags,
                                const UniqueFd& pidfd_socket, const CreatedContainer& created) {
  Result<void> told;
  if (pidfd_socket) told = send_pidfd(pidfd_socket.get(), "standard", created.monitor.pidfd.get());
  if (told && !flags.pid_file.empty()) told = write_pid_file(flags.pid_file, created.pid());
  if (!told) remove_quietly(globals, flags.id);
  return told;
}

}  // namespace kiln::runtime
