// SPDX-License-Identifier: Apache-2.0
#include "shim/sandbox_files.h"

#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/file.h"
#include "base/format.h"
#include "cri.pb.h"
#include "shim/sandbox_spec.h"

namespace kiln::shim {
namespace {

constexpr const char* kSharedMemory = "shm";
constexpr const char* kSharedMemoryOptions = "mode=1777,size=65536k";

struct File {
  const char* name;  // in the bundle
  const char* destination;
};
constexpr File kFiles[] = {
    {"resolv.conf", "/etc/resolv.conf"}, {"hosts", "/etc/hosts"}, {"hostname", "/etc/hostname"}};

std::string place(const std::string& bundle, const char* name) { return bundle + "/" + name; }

template <typename Words>
std::string line(const char* keyword, const Words& words) {
  std::string out = keyword;
  for (const std::string& word : words) out += " " + word;
  return out + "\n";
}

// resolv.conf(5).
std::string resolv_conf(const api::DNSConfig& config) {
  std::string out;
  if (config.searches_size() > 0) out += line("search", config.searches());
  for (const std::string& server : config.servers()) out += "nameserver " + server + "\n";
  if (config.options_size() > 0) out += line("options", config.options());
  return out;
}

// The host's, where it has one.
std::string host_file(const char* path) { return read_file(path, size_t{1} << 20).value_or(""); }

oci::Mount bind(const std::string& source, const char* destination) {
  oci::Mount mount;
  mount.destination = destination;
  mount.type = "bind";
  mount.source = source;
  mount.options = {"rbind", "rw"};
  return mount;
}

}  // namespace

Result<void> make_sandbox_files(const api::CreateSandboxRequest& request) {
  const api::PodSandboxConfig config = TRY(pod_config(request));
  const std::string& bundle = request.bundle_path();
  std::string names = resolv_conf(config.dns_config());
  if (names.empty()) names = host_file("/etc/resolv.conf");
  TRY(write_file_atomic(place(bundle, "resolv.conf"), names, 0644));
  TRY(write_file_atomic(place(bundle, "hosts"), host_file("/etc/hosts"), 0644));
  TRY(write_file_atomic(place(bundle, "hostname"), config.hostname() + "\n", 0644));
  const std::string shared = place(bundle, kSharedMemory);
  TRY(make_directories(shared, 0700));
  if (mount("shm", shared.c_str(), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
            kSharedMemoryOptions) != 0)
    return sys_error(fmt::format("mount a tmpfs on `{}`", shared));
  return {};
}

void add_sandbox_files(const std::string& bundle, oci::Spec& spec) {
  for (const File& file : kFiles) {
    const std::string source = place(bundle, file.name);
    const bool named =
        std::any_of(spec.mounts.begin(), spec.mounts.end(),
                    [&](const oci::Mount& mount) { return mount.destination == file.destination; });
    if (!named && access(source.c_str(), F_OK) == 0)
      spec.mounts.push_back(bind(source, file.destination));
  }
  const std::string shared = place(bundle, kSharedMemory);
  for (oci::Mount& mount : spec.mounts) {
    if (mount.destination == "/dev/shm" && mount.type == "tmpfs" &&
        access(shared.c_str(), F_OK) == 0)
      mount = bind(shared, "/dev/shm");
  }
}

Result<void> remove_sandbox_files(const std::string& bundle) {
  const std::string shared = place(bundle, kSharedMemory);
  if (umount2(shared.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0 && errno != EINVAL &&
      errno != ENOENT)
    return sys_error(fmt::format("unmount `{}`", shared));
  return {};
}

}  // namespace kiln::shim
