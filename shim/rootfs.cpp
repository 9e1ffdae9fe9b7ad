// SPDX-License-Identifier: Apache-2.0
#include "shim/rootfs.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/file.h"
#include "base/format.h"
#include "base/log.h"
#include "oci/mount_options.h"

namespace kiln::shim {
namespace {

constexpr size_t kPageBytes = 4096;
constexpr size_t kSpareBytes = 512;
constexpr int kMaxStacked = 128;
constexpr const char* kLayers = "kiln-layers";  // in the bundle, while a root is mounted
constexpr std::string_view kLowerDirectories = "lowerdir=";
constexpr std::string_view kDiskTypes[] = {"ext2", "ext3", "ext4", "erofs", "squashfs", "xfs"};

std::string rootfs_of(const std::string& bundle) { return bundle + "/rootfs"; }

std::vector<std::string> options_of(const api::Mount& mount) {
  return {mount.options().begin(), mount.options().end()};
}

size_t size_of(const std::vector<std::string>& options) {
  size_t size = 0;
  for (const std::string& option : options) size += option.size() + 1;
  return size;
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> out;
  while (true) {
    const size_t end = text.find(separator);
    out.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) return out;
    text.remove_prefix(end + 1);
  }
}

// loop(4): the device goes with its last user.
Result<UniqueFd> attach_loop(const std::string& image, bool read_only, std::string& device) {
  const UniqueFd control = TRY(open_file("/dev/loop-control", O_RDWR));
  const UniqueFd file = TRY(open_file(image, read_only ? O_RDONLY : O_RDWR));
  constexpr int kAttempts = 100;  // others take free numbers too
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const int number = ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) return sys_error("find a free loop device");
    device = fmt::format("/dev/loop{}", number);
    UniqueFd loop = TRY(open_file(device, O_RDWR));
    loop_config config{};
    config.fd = static_cast<uint32_t>(file.get());
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR | (read_only ? LO_FLAGS_READ_ONLY : 0);
    if (ioctl(loop.get(), LOOP_CONFIGURE, &config) == 0) return loop;
    if (errno != EBUSY) return sys_error(fmt::format("attach `{}` to {}", image, device));
  }
  return make_error(ErrorKind::kUnavailable, "every free loop device was taken by others");
}

struct Place {
  std::string rootfs;
  std::string inside;  // empty: rootfs itself
};

// What is in a root file system is the image's: a link there leads nowhere else.
Result<UniqueFd> open_place(const Place& place) {
  UniqueFd root = TRY(open_file(place.rootfs, O_PATH | O_DIRECTORY));
  if (place.inside.empty()) return root;
  return wrap(
      open_beneath(root.get(), place.inside, O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS),
      fmt::format("open `{}` in `{}`", place.inside, place.rootfs));
}

Result<void> call_mount(const std::string& source, const Place& place, const std::string& type,
                        unsigned long flags, const std::string& data) {
  const UniqueFd target = TRY(open_place(place));
  const std::string path = fmt::format("/proc/self/fd/{}", target.get());
  if (mount(source.c_str(), path.c_str(), type.c_str(), flags, data.c_str()) == 0) return {};
  return sys_error(fmt::format("mount `{}` of type {} on `{}`", source, type,
                               (std::filesystem::path(place.rootfs) / place.inside).native()));
}

// This thread's working directory, which is what it was when this goes: it would be inherited by
// what the thread starts.
class WorkingDirectory {
 public:
  WorkingDirectory() = default;
  ~WorkingDirectory() {
    if (before_ && fchdir(before_.get()) != 0) log_warning("leave the layers' directory, ignoring");
  }
  WorkingDirectory(const WorkingDirectory&) = delete;
  WorkingDirectory& operator=(const WorkingDirectory&) = delete;

  Result<void> change(const std::string& path) {
    if (unshare(CLONE_FS) != 0) return sys_error("have a working directory of one's own");
    before_ = TRY(open_file(".", O_PATH | O_DIRECTORY));
    if (chdir(path.c_str()) != 0) return sys_error(fmt::format("enter `{}`", path));
    return {};
  }

 private:
  UniqueFd before_;
};

Result<void> mount_one(const api::Mount& mount, const std::string& rootfs) {
  const Place place{rootfs, mount.target()};
  WorkingDirectory here;
  std::vector<std::string> words = options_of(mount);
  const bool loop = std::erase(words, "loop") > 0;
  if (mount.type() == "overlay" && size_of(words) >= kPageBytes - kSpareBytes) {
    const std::string shared = shorten_layers(words);
    if (!shared.empty()) TRY(here.change(shared));
  }
  const auto options = oci::parse_mount_options(words);
  if (!options)
    return invalid_argument(fmt::format("mount `{}`: option `{}`: {}", mount.source(),
                                        words[options.error().index], options.error().rule));
  if (options->data.size() >= kPageBytes)
    return invalid_argument(fmt::format("mount `{}`: its options are too long", mount.source()));
  std::string source = mount.source();
  UniqueFd device;
  if (loop) device = TRY(attach_loop(source, (options->set & MS_RDONLY) != 0, source));
  unsigned long flags = options->set;
  const bool bind = options->bind || mount.type() == "bind";
  if (bind) flags |= MS_BIND | (options->recursive_bind ? static_cast<unsigned long>(MS_REC) : 0UL);
  TRY(call_mount(source, place, mount.type(), flags, options->data));
  for (const unsigned long propagation : options->propagation)
    TRY(call_mount("none", place, "", propagation, ""));
  // mount(2): a bind takes its flags from a remount only.
  if (bind && (options->set & MS_RDONLY) != 0)
    TRY(call_mount("none", place, "", flags | MS_REMOUNT, ""));
  return {};
}

// In a mounted layer; a link there leads nowhere.
Result<void> make_directory(const Resolved::Directory& directory) {
  struct stat info {};
  if (lstat(directory.path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) return {};
  if (mkdir(directory.path.c_str(), directory.mode) == 0) return {};
  return sys_error(fmt::format("create the directory `{}`", directory.path));
}

// What the others are is kept by the last mount, once that is made.
Result<void> unmount_layers(const std::string& bundle) {
  const std::string layers = fmt::format("{}/{}", bundle, kLayers);
  for (size_t i = 0;; ++i) {
    const std::string point = fmt::format("{}/{}", layers, i);
    if (access(point.c_str(), F_OK) != 0) break;
    while (umount2(point.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0) continue;
    if (errno != EINVAL) return sys_error(fmt::format("unmount `{}`", point));
    if (rmdir(point.c_str()) != 0) return sys_error(fmt::format("remove `{}`", point));
  }
  if (rmdir(layers.c_str()) != 0 && errno != ENOENT)
    return sys_error(fmt::format("remove `{}`", layers));
  return {};
}

Result<void> mount_referring(const Mounts& mounts, const std::string& bundle) {
  std::vector<std::string> points;
  for (const api::Mount& mount : mounts) {
    const bool last = &mount == &mounts.back();
    const Resolved resolved = TRY(resolve(mount, mounts, points));
    for (const Resolved::Directory& directory : resolved.directories)
      TRY(make_directory(directory));
    points.push_back(fmt::format("{}/{}/{}", bundle, kLayers, points.size()));
    if (!last) TRY(make_directories(points.back(), 0700));
    TRY(mount_one(resolved.mount, last ? rootfs_of(bundle) : points.back()));
  }
  return {};
}

Result<void> mount_all(const Mounts& mounts, const std::string& bundle) {
  if (!refer_to_each_other(mounts)) {
    for (const api::Mount& mount : mounts) TRY(mount_one(mount, rootfs_of(bundle)));
    return {};
  }
  auto mounted = mount_referring(mounts, bundle);
  auto unmounted = unmount_layers(bundle);
  TRY(std::move(mounted));
  return unmounted;
}

}  // namespace

std::string shorten_layers(std::vector<std::string>& options) {
  const auto found = std::find_if(options.begin(), options.end(), [](const std::string& option) {
    return option.starts_with(kLowerDirectories);
  });
  if (found == options.end()) return {};
  std::vector<std::string> layers =
      split(std::string_view(*found).substr(kLowerDirectories.size()), ':');
  std::string shared = layers.front();
  for (const std::string& layer : layers) {
    const auto differ = std::mismatch(shared.begin(), shared.end(), layer.begin(), layer.end());
    shared.erase(differ.first, shared.end());
  }
  shared.erase(shared.rfind('/') + 1);
  if (layers.size() < 2 || shared.size() < 2) return {};
  std::string joined;
  for (const std::string& layer : layers) {
    if (layer.size() == shared.size()) return {};  // it would have no name left
    joined += (joined.empty() ? "" : ":") + layer.substr(shared.size());
  }
  *found = std::string(kLowerDirectories) + joined;
  return shared;
}

std::optional<RootDisk> root_disk(const Mounts& mounts) {
  if (mounts.size() != 1) return std::nullopt;
  const api::Mount& mount = mounts.front();
  const bool known =
      std::find(std::begin(kDiskTypes), std::end(kDiskTypes), mount.type()) != std::end(kDiskTypes);
  struct stat info {};
  if (!known || !mount.target().empty() || stat(mount.source().c_str(), &info) != 0 ||
      (!S_ISBLK(info.st_mode) && !S_ISREG(info.st_mode)))
    return std::nullopt;
  const auto options = options_of(mount);
  return RootDisk{mount.source(), std::find(options.begin(), options.end(), "ro") != options.end()};
}

Result<void> mount_rootfs(const Mounts& mounts, const std::string& bundle) {
  if (mounts.empty()) return {};
  TRY(make_directories(rootfs_of(bundle), 0711));
  auto mounted = mount_all(mounts, bundle);
  if (mounted) return {};
  if (const auto undone = unmount_rootfs(bundle); !undone)
    log_warning("{}, ignoring", undone.error().message);
  return mounted;
}

Result<void> unmount_rootfs(const std::string& bundle) {
  const std::string rootfs = rootfs_of(bundle);
  for (int i = 0; i < kMaxStacked; ++i) {
    if (umount2(rootfs.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0) continue;
    // Of a shim that died while it mounted them.
    if (errno == EINVAL || errno == ENOENT) return unmount_layers(bundle);
    return sys_error(fmt::format("unmount `{}`", rootfs));
  }
  return {};
}

}  // namespace kiln::shim
