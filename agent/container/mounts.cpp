// SPDX-License-Identifier: Apache-2.0
#include "agent/container/mounts.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <algorithm>
#include <string_view>

#include "agent/container/copy_tree.h"
#include "agent/container/mount_calls.h"
#include "agent/container/root_paths.h"
#include "agent/container/rootfs.h"
#include "base/file.h"
#include "base/format.h"
#include "oci/mount_options.h"

namespace kiln::agent {
namespace {

// Files of procfs that may be covered, because programs read them and nothing depends on them.
constexpr std::string_view kCoverableProcFiles[] = {
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/uptime",
    "/proc/sys/kernel/ns_last_pid",
};

bool is_cgroup(const oci::Mount& mount) {
  return mount.type == "cgroup" || mount.type == "cgroup2";
}

Result<bool> is_directory(int fd) {
  struct stat status {};
  if (fstat(fd, &status) != 0) return sys_error("stat");
  return S_ISDIR(status.st_mode);
}

}  // namespace

struct Mounter::Entry {
  const oci::Mount& mount;
  oci::MountOptions options;
  std::string destination;  // cleaned
  int source_fd = -1;       // of open_mount_sources()

  bool is_file_system() const { return !options.bind; }
  bool needs_plain_directory() const {
    return is_file_system() && (mount.type == "proc" || mount.type == "sysfs");
  }
};

Result<void> Mounter::mount_all() {
  for (size_t i = 0; i < plan_.spec.mounts.size(); ++i) {
    const oci::Mount& mount = plan_.spec.mounts[i];
    const auto options = oci::parse_mount_options(mount.options);
    if (!options) return invalid_argument(options.error().rule);  // not after parse_spec
    const Entry entry{mount, *options, clean_path(mount.destination), plan_.sources[i].get()};
    TRY(wrap(entry.options.remount ? remount(entry) : mount_one(entry),
             fmt::format("mount `{}` at `{}`", mount.type.empty() ? mount.source : mount.type,
                         mount.destination)));
  }
  return {};
}

// A mount inside procfs could hide from everybody what the kernel says about a process, and one on
// a place that a symbolic link chose would leave the real /proc and /sys unprotected.
Result<UniqueFd> Mounter::open_target(const Entry& entry) const {
  if (entry.destination == "/")
    return make_error(ErrorKind::kUnimplemented, "a mount on the container's `/`");
  const bool directory =
      entry.source_fd < 0 || TRY(wrap(is_directory(entry.source_fd), "its source"));
  UniqueFd target = TRY(directory ? make_directory_in_root(plan_.root_fd, entry.destination)
                                  : make_file_in_root(plan_.root_fd, entry.destination));
  if (entry.needs_plain_directory()) {
    auto plain = open_without_links(plan_.root_fd, entry.destination, O_PATH | O_DIRECTORY);
    if (!plain && plain.error().sys_errno == ELOOP)
      return make_error(ErrorKind::kPermissionDenied, "the path contains a symbolic link");
    target = TRY(std::move(plain));
  }
  if (TRY(is_directory(target.get())) != directory)
    return sys_error("its mount point", directory ? ENOTDIR : EISDIR);
  if (entry.destination == "/proc" || file_system_magic(target.get()) != PROC_SUPER_MAGIC)
    return target;
  const auto* end = std::end(kCoverableProcFiles);
  if (std::find(std::begin(kCoverableProcFiles), end, entry.destination) == end)
    return make_error(ErrorKind::kPermissionDenied, "it is inside the container's /proc");
  return target;
}

namespace {

// mount(2) knows every file system's options and flags; on the stage, which nobody else can reach,
// its path is safe.
Result<UniqueFd> make_file_system(const oci::Mount& config, const oci::MountOptions& options,
                                  int target_fd) {
  unsigned long flags = options.set;
  std::string data = options.data;
  const std::string type = is_cgroup(config) ? "cgroup2" : config.type;
  if (is_cgroup(config)) data.clear();  // v1's: the guest has v2 alone
  if (type == "tmpfs") {
    flags &= ~static_cast<unsigned long>(MS_RDONLY);
    struct stat status {};
    if (fstat(target_fd, &status) != 0) return sys_error("stat the mount point");
    // As the directory that it hides, unless the options say otherwise: the last one wins.
    const std::string mode = fmt::format("mode={:04o}", status.st_mode & 07777);
    data = data.empty() ? mode : mode + "," + data;
  }
  const std::string& source = config.source.empty() ? type : config.source;
  if (mount(source.c_str(), kStage, type.c_str(), flags, data.c_str()) != 0)
    return sys_error("mount");
  return open_file(kStage, O_PATH | O_DIRECTORY);
}

}  // namespace

Result<void> Mounter::mount_one(const Entry& entry) {
  const UniqueFd target = TRY(open_target(entry));
  UniqueFd made;
  int mount_fd = entry.source_fd;
  if (mount_fd < 0) {
    made = TRY(make_file_system(entry.mount, entry.options, target.get()));
    mount_fd = made.get();
    if (entry.options.copy_up && entry.mount.type == "tmpfs")
      TRY(wrap(copy_tree(target.get(), mount_fd), "tmpcopyup"));
    TRY(set_mount_attributes(mount_fd, entry.options.recursive_set, entry.options.recursive_clear,
                             true));
  }
  TRY(attach_mount(mount_fd, target.get()));
  for (const unsigned long flags : entry.options.propagation)
    TRY(set_mount_propagation(mount_fd, flags));
  const bool read_only = (entry.options.set & MS_RDONLY) != 0;
  if (made && read_only && entry.mount.type == "tmpfs")
    read_only_at_end_.push_back(std::move(made));
  return {};
}

Result<void> Mounter::remount(const Entry& entry) const {
  const UniqueFd target = TRY(open_in_root(plan_.root_fd, entry.destination, O_PATH));
  if (entry.options.bind) {
    const auto attributes = attributes_of_flags(entry.options.set, entry.options.clear);
    TRY(set_mount_attributes(target.get(), attributes.set, attributes.clear, false));
  } else {
    const std::string path = fmt::format("/proc/self/fd/{}", target.get());
    if (::mount(nullptr, path.c_str(), nullptr, entry.options.set | MS_REMOUNT,
                entry.options.data.c_str()) != 0)
      return sys_error("remount");
  }
  TRY(set_mount_attributes(target.get(), entry.options.recursive_set, entry.options.recursive_clear,
                           true));
  for (const unsigned long flags : entry.options.propagation)
    TRY(set_mount_propagation(target.get(), flags));
  return {};
}

Result<void> Mounter::finish() {
  for (const UniqueFd& mount : read_only_at_end_)
    TRY(set_mount_attributes(mount.get(), MOUNT_ATTR_RDONLY, 0, false));
  read_only_at_end_.clear();
  return {};
}

}  // namespace kiln::agent
