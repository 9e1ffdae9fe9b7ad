// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/box_spec.h"

#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <climits>
#include <cstdlib>
#include <optional>

#include <nlohmann/json.hpp>

#include "base/format.h"
#include "oci/parse.h"

namespace kiln::runtime {
namespace {

constexpr const char* kDefaultPath =
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
// What makes a caller's shell feel at home. Nothing else of its environment enters the box.
constexpr const char* kKeptVariables[] = {"PATH", "HOME",   "TERM",     "LANG",
                                          "TZ",   "LC_ALL", "LC_CTYPE", "COLORTERM"};
// The VM is the boundary: root in it may do what root may.
constexpr const char* kCapabilities[] = {"CAP_CHOWN",
                                         "CAP_DAC_OVERRIDE",
                                         "CAP_DAC_READ_SEARCH",
                                         "CAP_FOWNER",
                                         "CAP_FSETID",
                                         "CAP_KILL",
                                         "CAP_SETGID",
                                         "CAP_SETUID",
                                         "CAP_SETPCAP",
                                         "CAP_LINUX_IMMUTABLE",
                                         "CAP_NET_BIND_SERVICE",
                                         "CAP_NET_BROADCAST",
                                         "CAP_NET_ADMIN",
                                         "CAP_NET_RAW",
                                         "CAP_IPC_LOCK",
                                         "CAP_IPC_OWNER",
                                         "CAP_SYS_CHROOT",
                                         "CAP_SYS_PTRACE",
                                         "CAP_SYS_ADMIN",
                                         "CAP_SYS_NICE",
                                         "CAP_SYS_RESOURCE",
                                         "CAP_SYS_TIME",
                                         "CAP_SYS_TTY_CONFIG",
                                         "CAP_MKNOD",
                                         "CAP_LEASE",
                                         "CAP_AUDIT_WRITE",
                                         "CAP_SETFCAP",
                                         "CAP_SYSLOG",
                                         "CAP_PERFMON",
                                         "CAP_BPF",
                                         "CAP_CHECKPOINT_RESTORE"};

std::optional<std::string> variable(const std::vector<std::string>& environment,
                                    const std::string& name) {
  for (const std::string& entry : environment) {
    if (entry.starts_with(name + "=")) return entry;
  }
  return std::nullopt;
}

std::vector<std::string> box_environment(const BoxOptions& options,
                                         const std::vector<std::string>& environment) {
  std::vector<std::string> out;
  for (const char* name : kKeptVariables) {
    if (auto entry = variable(environment, name)) out.push_back(std::move(*entry));
  }
  if (!variable(out, "PATH")) out.emplace_back(kDefaultPath);
  if (!variable(out, "HOME")) out.emplace_back("HOME=/root");
  for (const std::string& entry : options.env) {
    if (entry.find('=') != std::string::npos) {
      out.push_back(entry);
    } else if (auto taken = variable(environment, entry)) {
      out.push_back(std::move(*taken));
    }
  }
  return out;
}

// PATH[:DST]; a colon in PATH itself cannot be said.
Result<oci::Mount> share(const std::string& text, const char* flag, const char* access) {
  const size_t colon = text.find(':');
  const std::string source = text.substr(0, colon);
  std::string resolved(PATH_MAX, '\0');
  if (source.empty() || realpath(source.c_str(), resolved.data()) == nullptr)
    return sys_error(fmt::format("{} `{}`", flag, source), source.empty() ? ENOENT : errno);
  resolved.resize(std::char_traits<char>::length(resolved.c_str()));
  oci::Mount mount;
  mount.source = resolved;
  mount.destination = colon == std::string::npos ? resolved : text.substr(colon + 1);
  if (!mount.destination.starts_with('/') || mount.destination == "/")
    return invalid_argument(fmt::format("{}: must lead to an absolute path other than `/`, is `{}`",
                                        flag, mount.destination));
  mount.type = "bind";
  mount.options = {"rbind", access};
  return mount;
}

bool is_directory(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

oci::Mount tmpfs(const char* destination, oci::Strings options) {
  oci::Mount mount;
  mount.destination = destination;
  mount.type = "tmpfs";
  mount.source = "tmpfs";
  mount.options = std::move(options);
  return mount;
}

}  // namespace

Result<oci::Spec> box_spec(const BoxOptions& options, const std::string& caller_directory,
                           const std::vector<std::string>& environment) {
  if (options.command.empty())
    return invalid_argument("a command is missing: kiln box [options] -- COMMAND [ARGUMENTS]");
  oci::Spec spec = oci::default_spec(false);
  spec.hostname = "box";
  spec.root = oci::Root{options.rootfs, false};
  spec.linux.masked_paths.clear();
  spec.linux.readonly_paths.clear();
  spec.linux.resources.reset();

  oci::Process& process = *spec.process;
  process.terminal = options.terminal;
  process.args = options.command;
  process.env = box_environment(options, environment);
  process.no_new_privileges = false;
  process.rlimits.clear();
  const oci::Strings all(std::begin(kCapabilities), std::end(kCapabilities));
  process.capabilities = oci::Capabilities{all, all, {}, all, {}};

  // Sockets and pid files of the host mean nothing in there, and daemons trip over them.
  spec.mounts.push_back(tmpfs("/run", {"nosuid", "nodev", "mode=755"}));
  for (const std::string& text : options.ro) spec.mounts.push_back(TRY(share(text, "--ro", "ro")));
  for (const std::string& text : options.rw) spec.mounts.push_back(TRY(share(text, "--rw", "rw")));

  process.cwd = options.workdir;
  if (process.cwd.empty()) {
    const bool shared = std::any_of(spec.mounts.begin(), spec.mounts.end(), [&](const auto& mount) {
      return mount.type == "bind" && (caller_directory + "/").starts_with(mount.destination + "/");
    });
    const bool there =
        options.rootfs == "/" || shared || is_directory(options.rootfs + caller_directory);
    process.cwd = there ? caller_directory : "/";
  }
  // Through the parser: the flags are input like any other.
  return oci::parse_spec(oci::to_json(spec));
}

Result<uint64_t> parse_memory_mib(const std::string& text) {
  uint64_t number = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string unit(end, text.data() + text.size());
  std::transform(unit.begin(), unit.end(), unit.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  constexpr uint64_t kMost = uint64_t{1} << 24;  // MiB
  uint64_t factor = 0;
  if (unit.empty() || unit == "m" || unit == "mb" || unit == "mib") factor = 1;
  if (unit == "g" || unit == "gb" || unit == "gib") factor = 1024;
  if (failed != std::errc() || factor == 0 || number == 0 || number > kMost / factor)
    return invalid_argument(
        fmt::format("--memory: must be a size such as 512M or 2G, is `{}`", text));
  return number * factor;
}

}  // namespace kiln::runtime
