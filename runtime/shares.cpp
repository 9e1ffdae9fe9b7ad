// SPDX-License-Identifier: Apache-2.0
#include "runtime/shares.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "base/file.h"
#include "base/format.h"
#include "oci/mount_options.h"

namespace kiln::runtime {
namespace {

constexpr size_t kMaxMountinfoBytes = size_t{16} << 20;

std::string absolute(const std::string& path, const std::string& bundle) {
  return path.starts_with('/') ? path : bundle + "/" + path;
}

// A copy of the mount that lives in the descriptor alone: nothing to unmount after a crash. Without
// the privilege for it (rootless), a descriptor of the directory does, as long as nobody unmounts.
struct OpenSource {
  UniqueFd fd;
  bool is_copy = false;
};
Result<OpenSource> open_source(const std::string& path, bool recursive) {
  const unsigned flags =
      OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | static_cast<unsigned>(recursive ? AT_RECURSIVE : 0);
  UniqueFd fd(static_cast<int>(syscall(SYS_open_tree, AT_FDCWD, path.c_str(), flags)));
  if (fd) return OpenSource{std::move(fd), true};
  return OpenSource{TRY(open_file(path, O_PATH)), false};
}

// Whether an earlier mount covers the place, so that the rootfs below it does not matter.
bool is_covered(const oci::Spec& spec, const std::string& path, size_t mount_count) {
  return std::any_of(spec.mounts.begin(), spec.mounts.begin() + static_cast<ptrdiff_t>(mount_count),
                     [&](const oci::Mount& mount) { return is_beneath(path, mount.destination); });
}

Result<void> make_missing_mountpoints(const oci::Spec& spec, const Shares& shares) {
  const Share& rootfs = shares.list.front();
  for (size_t i = 0; i < spec.mounts.size(); ++i) {
    if (is_covered(spec, spec.mounts[i].destination, i)) continue;
    bool directory = !shares.sockets.contains(i);
    if (const auto found = shares.bind_entries.find(i); found != shares.bind_entries.end()) {
      const auto share = std::find_if(shares.list.begin(), shares.list.end(),
                                      [&](const Share& s) { return s.entry == found->second; });
      struct stat info {};
      if (fstat(share->fd.get(), &info) != 0)
        return sys_error(fmt::format("stat `{}`", share->source));
      directory = S_ISDIR(info.st_mode);
    }
    TRY(wrap(
        make_mountpoint(rootfs.fd.get(), spec.mounts[i].destination, directory),
        fmt::format("make mountpoint `{}` in the read-only rootfs", spec.mounts[i].destination)));
  }
  if (spec.process && !is_covered(spec, spec.process->cwd, spec.mounts.size()))
    TRY(wrap(make_mountpoint(rootfs.fd.get(), spec.process->cwd, true),
             fmt::format("make /process/cwd `{}` in the read-only rootfs", spec.process->cwd)));
  return {};
}

Result<Share> open_rootfs(const oci::Spec& spec, const std::string& bundle, bool overlaid) {
  Share rootfs;
  rootfs.source = rootfs_path(spec, bundle);
  rootfs.fd = TRY(wrap(open_source(rootfs.source, true), "rootfs")).fd;
  rootfs.read_only = overlaid || (spec.root && spec.root->readonly);
  struct stat info {};
  if (fstat(rootfs.fd.get(), &info) != 0) return sys_error(fmt::format("stat `{}`", rootfs.source));
  if (!S_ISDIR(info.st_mode))
    return invalid_argument(fmt::format("rootfs `{}` is not a directory", rootfs.source));
  return rootfs;
}

struct MountPoint {
  std::string path;
  std::string type;
};

// Of our namespace, as proc_pid_mountinfo(5) spells them: blanks and the like are octal.
Result<std::vector<MountPoint>> mount_points() {
  std::vector<MountPoint> out;
  const std::string text = TRY(read_file("/proc/thread-self/mountinfo", kMaxMountinfoBytes));
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line(text.data() + begin, end - begin);
    constexpr std::string_view kBeforeType = " - ";
    std::string_view type = line;
    type.remove_prefix(std::min(line.find(kBeforeType), line.size()));
    type.remove_prefix(std::min(kBeforeType.size(), type.size()));
    for (int field = 0; field < 4; ++field)
      line.remove_prefix(std::min(line.find(' ') + 1, line.size()));
    out.push_back(
        {std::string(line.substr(0, line.find(' '))), std::string(type.substr(0, type.find(' ')))});
    begin = end + 1;
  }
  return out;
}

// Whether files are all that such a file system holds. Those of others (proc, sysfs, cgroup2 …)
// may be the host's own controls.
bool holds_files_alone(const std::string& type) {
  constexpr std::string_view kTypes[] = {
      "9p",    "btrfs",    "ceph",  "cifs", "erofs",    "exfat", "ext2",
      "ext3",  "ext4",     "f2fs",  "nfs",  "nfs4",     "ntfs3", "overlay",
      "ramfs", "squashfs", "tmpfs", "vfat", "virtiofs", "xfs",   "zfs"};
  return type.starts_with("fuse.") ||
         std::find(std::begin(kTypes), std::end(kTypes), type) != std::end(kTypes);
}

enum class Below { kNothing, kFiles, kAnything };

// What is mounted below a source, as far as it can be told.
Below mounted_below(const std::string& source, const std::vector<MountPoint>& mount_points) {
  const std::unique_ptr<char, decltype(&free)> real(realpath(source.c_str(), nullptr), &free);
  if (!real) return Below::kAnything;
  const std::string path(real.get());
  // What is spelled otherwise there is not found.
  if (path.find_first_of(" \t\n\\") != std::string::npos) return Below::kAnything;
  Below found = Below::kNothing;
  for (const MountPoint& point : mount_points) {
    if (point.path == path || !is_beneath(point.path, path)) continue;
    if (!holds_files_alone(point.type)) return Below::kAnything;
    found = Below::kFiles;
  }
  return found;
}

// Not what is mounted below it.
bool make_top_read_only(int mount_fd) {
  mount_attr wanted{};
  wanted.attr_set = MOUNT_ATTR_RDONLY;
  return syscall(SYS_mount_setattr, mount_fd, "", AT_EMPTY_PATH, &wanted, sizeof wanted) == 0;
}

using MountPoints = std::optional<std::vector<MountPoint>>;  // read when first needed

// The source of a bind mount; `entry` and what is to become of a socket are the caller's.
Result<Share> open_bind(const oci::Mount& mount, const oci::MountOptions& options,
                        const std::string& bundle, MountPoints& mounted) {
  Share share;
  share.source = absolute(mount.source, bundle);
  const bool recursive = options.recursive_bind || !options.bind;
  OpenSource source =
      TRY(wrap(open_source(share.source, recursive), fmt::format("mount `{}`", mount.destination)));
  share.fd = std::move(source.fd);
  if (recursive && !mounted) mounted = TRY(mount_points());
  const Below below = recursive ? mounted_below(share.source, *mounted) : Below::kNothing;
  // A copy of the same tree that is made at another time may have other mounts in it.
  share.same_for_all = below == Below::kNothing;
  // runtime-spec 1.2 config.md#linux-mount-options: `ro` is the mount's own, `rro` is recursive.
  // The server knows only entries as a whole; one that it should not see to may be written to only
  // where the kernel does instead, so never by a descriptor that is not a copy. A guest gets no
  // write access to the host's /proc and /sys because they lie below something read-only.
  const bool all = (options.recursive_set & MOUNT_ATTR_RDONLY) != 0;
  const bool top = (options.set & MS_RDONLY) != 0;
  share.top_read_only =
      top && !all && below == Below::kFiles && source.is_copy && make_top_read_only(share.fd.get());
  share.read_only = all || (top && !share.top_read_only);
  return share;
}

Result<bool> is_socket(const Share& share) {
  struct stat info {};
  if (fstat(share.fd.get(), &info) != 0) return sys_error(fmt::format("stat `{}`", share.source));
  return S_ISSOCK(info.st_mode);
}

}  // namespace

bool is_beneath(const std::string& path, const std::string& directory) {
  if (directory == "/") return true;
  return path.starts_with(directory) &&
         (path.size() == directory.size() || path[directory.size()] == '/');
}

std::string rootfs_path(const oci::Spec& spec, const std::string& bundle) {
  std::string path = absolute(spec.root ? spec.root->path : "rootfs", bundle);
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

Result<void> make_mountpoint(int root_fd, const std::string& path, bool directory) {
  constexpr uint64_t kInside = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  if (open_beneath(root_fd, path, O_PATH, kInside)) return {};
  UniqueFd parent = TRY(open_beneath(root_fd, ".", O_PATH | O_DIRECTORY, kInside));
  std::string walked = ".";
  size_t at = 0;
  while (at < path.size()) {
    const size_t begin = path.find_first_not_of('/', at);
    if (begin == std::string::npos) break;
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string name = path.substr(begin, end - begin);
    at = end;
    if (name == "." || name == "..") return invalid_argument("its path has `.` or `..` in it");
    const bool last = path.find_first_not_of('/', end) == std::string::npos;
    walked += "/" + name;
    if (auto next = open_beneath(root_fd, walked, O_PATH, kInside)) {
      parent = std::move(*next);
      continue;
    }
    if (last && !directory) {
      const UniqueFd file(openat(parent.get(), name.c_str(),
                                 O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0644));
      if (!file) return sys_error(fmt::format("create `{}`", name));
      return {};
    }
    if (mkdirat(parent.get(), name.c_str(), 0755) != 0)
      return sys_error(fmt::format("create `{}`", name));
    parent = TRY(open_beneath(root_fd, walked, O_PATH | O_DIRECTORY, kInside));
  }
  return {};
}

Result<Shares> open_shares(const oci::Spec& spec, const std::string& bundle, RootKind root,
                           const std::string& prefix, std::optional<size_t> foreign) {
  Shares shares;
  MountPoints mounted;
  if (root != RootKind::kDisk) {
    shares.list.push_back(TRY(open_rootfs(spec, bundle, root == RootKind::kOverlaid)));
    shares.list.back().entry = prefix + "rootfs";
    shares.has_root = true;
  }
  for (size_t i = 0; i < spec.mounts.size(); ++i) {
    const oci::Mount& mount = spec.mounts[i];
    const auto options = oci::parse_mount_options(mount.options);
    if (!options) return invalid_argument(options.error().rule);  // not after parse_spec
    if (!options->bind && mount.type != "bind") continue;
    if (options->remount || foreign == i) continue;
    Share share = TRY(open_bind(mount, *options, bundle, mounted));
    share.entry = fmt::format("{}mount-{}", prefix, i);
    if (TRY(is_socket(share))) {
      shares.sockets.emplace(i, std::move(share));
      continue;
    }
    shares.bind_entries.emplace(i, share.entry);
    if (share.top_read_only) shares.read_only_tops.insert(i);
    shares.list.push_back(std::move(share));
  }
  if (root == RootKind::kPlain && shares.list.front().read_only)
    TRY(make_missing_mountpoints(spec, shares));
  return shares;
}

}  // namespace kiln::runtime
