// SPDX-License-Identifier: Apache-2.0
#include "runtime/disks.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "base/file.h"
#include "base/format.h"
#include "oci/mount_options.h"
#include "runtime/shares.h"

namespace kiln::runtime {
namespace {

constexpr size_t kMaxDisks = 16;  // of a machine

constexpr std::string_view kDiskTypes[] = {"btrfs", "erofs",   "exfat",    "ext2", "ext3", "ext4",
                                           "f2fs",  "iso9660", "squashfs", "udf",  "vfat", "xfs"};
constexpr std::string_view kReadOnlyTypes[] = {"erofs", "iso9660", "squashfs"};

struct Magic {
  off_t offset;
  std::string_view bytes;
  const char* type;
};
// Documentation/filesystems of Linux: ext4/super.rst, erofs.rst, squashfs.rst, xfs' format.
constexpr Magic kMagics[] = {
    {1024 + 56, "\x53\xef", "ext4"},
    {1024, "\xe2\xe1\xf5\xe0", "erofs"},
    {0, "hsqs", "squashfs"},
    {0, "XFSB", "xfs"},
};

template <typename List>
bool contains(const List& list, std::string_view name) {
  return std::find(std::begin(list), std::end(list), name) != std::end(list);
}

Result<uint64_t> size_of(int fd, const struct stat& info) {
  if (S_ISREG(info.st_mode)) return static_cast<uint64_t>(info.st_size);
  uint64_t bytes = 0;
  if (ioctl(fd, BLKGETSIZE64, &bytes) != 0) return sys_error("ask for its size");
  return bytes;
}

// Two machines that write one file system destroy it, and one that reads what another writes sees
// garbage. The lock is the open description's: kiln-vmm has it until the machine ends.
Result<void> lock_image(int fd, bool read_only) {
  if (flock(fd, (read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0) return {};
  if (errno != EWOULDBLOCK) return sys_error("lock it");
  return make_error(ErrorKind::kFailedPrecondition, "it is in use by another container");
}

Result<UniqueFd> open_disk(const std::string& path, bool read_only) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return sys_error("open it");
  const bool device = S_ISBLK(info.st_mode);
  if (!device && !S_ISREG(info.st_mode))
    return invalid_argument("it is neither a block device nor an image file");
  int flags = (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  // open(2): EBUSY for a device that the host has mounted, or that somebody else holds so.
  if (device && !read_only) flags |= O_EXCL;
  UniqueFd fd(open(path.c_str(), flags));
  if (!fd && errno == EBUSY)
    return make_error(ErrorKind::kFailedPrecondition, "it is in use by the host");
  if (!fd) return sys_error("open it");
  struct stat opened {};
  if (fstat(fd.get(), &opened) != 0) return sys_error("stat it");
  if (opened.st_dev != info.st_dev || opened.st_ino != info.st_ino)
    return make_error(ErrorKind::kAborted, "it changed while it was opened");
  TRY(lock_image(fd.get(), read_only));
  if (TRY(size_of(fd.get(), opened)) == 0) return invalid_argument("it is empty");
  return fd;
}

Result<bool> is_disk(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) {
    // Whoever opens it says so.
    return false;
  }
  return S_ISREG(info.st_mode) || S_ISBLK(info.st_mode);
}

Result<Disk> open_root(const oci::Spec& spec, const std::string& path, bool overlaid) {
  Disk disk;
  disk.id = "rootfs";
  disk.source = path;
  disk.read_only = overlaid || (spec.root && spec.root->readonly);
  // The type is not known before it is open.
  if (!disk.read_only) {
    const UniqueFd probed = TRY(open_file(path, O_RDONLY | O_NONBLOCK | O_NOCTTY));
    disk.type = TRY(probe_file_system(probed.get()));
    disk.read_only = contains(kReadOnlyTypes, disk.type);
  }
  disk.fd = TRY(open_disk(path, disk.read_only));
  disk.type = TRY(probe_file_system(disk.fd.get()));
  return disk;
}

Result<Disk> open_mount(const oci::Mount& mount, size_t index, const std::string& bundle) {
  const auto options = oci::parse_mount_options(mount.options);
  if (!options) return invalid_argument(options.error().rule);  // not after parse_spec
  Disk disk;
  disk.id = fmt::format("mount-{}", index);
  disk.source = mount.source.starts_with('/') ? mount.source : bundle + "/" + mount.source;
  disk.type = mount.type;
  disk.read_only = (options->set & MS_RDONLY) != 0 || contains(kReadOnlyTypes, disk.type);
  disk.fd = TRY(open_disk(disk.source, disk.read_only));
  return disk;
}

// The path of the host's device with these numbers (Documentation/ABI/stable/sysfs-dev of Linux).
Result<std::string> find_block_device(int64_t major, int64_t minor) {
  const auto text = read_file(fmt::format("/sys/dev/block/{}:{}/uevent", major, minor), 4096);
  constexpr std::string_view kKey = "DEVNAME=";
  const size_t begin = text ? text->find(kKey) : std::string::npos;
  if (begin == std::string::npos)
    return make_error(ErrorKind::kNotFound,
                      fmt::format("the host has no block device {}:{}", major, minor));
  const size_t name = begin + kKey.size();
  return "/dev/" + text->substr(name, text->find('\n', name) - name);
}

// Whether the container may write to it: by the last rule for this very device.
bool may_write(const oci::Spec& spec, const oci::Device& device) {
  bool write = true;
  if (!spec.linux.resources) return write;
  for (const oci::DeviceRule& rule : spec.linux.resources->devices) {
    if (rule.type == "b" && rule.major == device.major && rule.minor == device.minor)
      write = rule.allow == (rule.access.find('w') != std::string::npos);
  }
  return write;
}

Result<Disk> open_device(const oci::Spec& spec, const oci::Device& device, size_t index) {
  Disk disk;
  disk.id = fmt::format("device-{}", index);
  disk.source = TRY(find_block_device(device.major, device.minor));
  disk.read_only = !may_write(spec, device);
  disk.fd = TRY(open_disk(disk.source, disk.read_only));
  struct stat info {};
  const auto number =
      makedev(static_cast<unsigned>(device.major), static_cast<unsigned>(device.minor));
  if (fstat(disk.fd.get(), &info) != 0 || !S_ISBLK(info.st_mode) || info.st_rdev != number)
    return make_error(ErrorKind::kNotFound, fmt::format("`{}` is another device", disk.source));
  return disk;
}

Result<Disk> open_layer(const std::string& path, std::string id, bool read_only) {
  Disk disk;
  disk.id = std::move(id);
  disk.source = path;
  disk.read_only = read_only;
  disk.fd = TRY(open_disk(path, read_only));
  disk.type = TRY(probe_file_system(disk.fd.get()));
  return disk;
}

Result<void> open_layers(const RootLayers& layers, Disks& disks) {
  for (const std::string& path : layers.lower)
    disks.list.push_back(
        TRY(wrap(open_layer(path, fmt::format("layer-{}", disks.list.size()), true),
                 fmt::format("layer `{}`", path))));
  disks.root_layers = layers.lower.size();
  disks.has_root = true;
  if (layers.upper.empty()) return {};
  // Also for a read-only container: an earlier one may have written, and ext4 replays its journal.
  disks.list.push_back(TRY(wrap(open_layer(layers.upper, "upper", false),
                                fmt::format("writable layer `{}`", layers.upper))));
  disks.has_upper = true;
  return {};
}

Result<size_t> add_disk(Disks& disks, Disk disk) {
  if (disks.list.size() == kMaxDisks)
    return invalid_argument(fmt::format("more than {} block devices", kMaxDisks));
  disks.list.push_back(std::move(disk));
  return disks.list.size() - 1;
}

}  // namespace

Result<std::string> probe_file_system(int fd) {
  for (const Magic& magic : kMagics) {
    std::array<char, 8> found{};
    const ssize_t got =
        retry_eintr([&] { return pread(fd, found.data(), magic.bytes.size(), magic.offset); });
    if (got < 0) return sys_error("read its superblock");
    if (std::string_view(found.data(), static_cast<size_t>(got)) == magic.bytes) return magic.type;
  }
  return invalid_argument(
      "it is not a directory, and has no file system that is known here (ext2, ext3, ext4, "
      "erofs, squashfs, xfs)");
}

Result<Disks> open_disks(const oci::Spec& spec, const std::string& bundle, bool overlaid,
                         const RootLayers& layers) {
  Disks disks;
  const std::string root = rootfs_path(spec, bundle);
  if (!layers.lower.empty()) {
    TRY(open_layers(layers, disks));
  } else if (TRY(is_disk(root))) {
    disks.list.push_back(
        TRY(wrap(open_root(spec, root, overlaid), fmt::format("rootfs `{}`", root))));
    disks.has_root = true;
  }
  for (size_t i = 0; i < spec.mounts.size(); ++i) {
    const oci::Mount& mount = spec.mounts[i];
    const auto options = oci::parse_mount_options(mount.options);
    if (!contains(kDiskTypes, mount.type) || !options || options->bind || options->remount)
      continue;
    Disk disk = TRY(wrap(open_mount(mount, i, bundle),
                         fmt::format("mount `{}`: `{}`", mount.destination, mount.source)));
    disks.of_mounts.emplace(i, TRY(add_disk(disks, std::move(disk))));
  }
  for (size_t i = 0; i < spec.linux.devices.size(); ++i) {
    const oci::Device& device = spec.linux.devices[i];
    if (device.type != "b") continue;
    Disk disk = TRY(wrap(open_device(spec, device, i), fmt::format("device `{}`", device.path)));
    disks.of_devices.emplace(i, TRY(add_disk(disks, std::move(disk))));
  }
  return disks;
}

}  // namespace kiln::runtime
