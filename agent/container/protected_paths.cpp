// SPDX-License-Identifier: Apache-2.0
#include "agent/container/protected_paths.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "agent/container/mount_calls.h"
#include "agent/container/root_paths.h"
#include "agent/container/rootfs.h"
#include "base/file.h"
#include "base/format.h"

namespace kiln::agent {
namespace {

// Unset: there is nothing at that path.
Result<UniqueFd> open_existing(int root_fd, const std::string& path) {
  auto target = open_in_root(root_fd, path, O_PATH);
  const bool missing =
      !target && (target.error().sys_errno == ENOENT || target.error().sys_errno == ENOTDIR);
  if (missing) return UniqueFd();
  return target;
}

Result<UniqueFd> open_null() {
  UniqueFd fd = TRY(clone_mount(AT_FDCWD, "/dev/null", false));
  struct stat status {};
  if (fstat(fd.get(), &status) != 0) return sys_error("stat `/dev/null`");
  // What would mask a path must not be a file that can be written (CVE-2025-31133).
  if (!S_ISCHR(status.st_mode) || status.st_rdev != makedev(1, 3))
    return make_error(ErrorKind::kInternal, "the guest's `/dev/null` is not the null device");
  return fd;
}

Result<UniqueFd> make_empty_directory() {
  if (mount("tmpfs", kStage, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
            "mode=0755,nr_blocks=1,nr_inodes=2") != 0)
    return sys_error("mount a tmpfs");
  UniqueFd copy = TRY(clone_mount(AT_FDCWD, kStage, false));
  if (umount2(kStage, MNT_DETACH) != 0) return sys_error("unmount a tmpfs");
  return copy;
}

// Each place wants a mount of its own; `original` is made once and copied.
Result<void> cover(int target_fd, UniqueFd& original, Result<UniqueFd> (*make)()) {
  if (!original) original = TRY(make());
  TRY(attach_mount(original.get(), target_fd));
  original = TRY(clone_mount(original.get(), "", false));
  return {};
}

Result<void> mask(int root_fd, const std::string& path, UniqueFd& null, UniqueFd& empty) {
  const UniqueFd target = TRY(open_existing(root_fd, path));
  if (!target) return {};
  struct stat status {};
  if (fstat(target.get(), &status) != 0) return sys_error("stat");
  return S_ISDIR(status.st_mode) ? cover(target.get(), empty, make_empty_directory)
                                 : cover(target.get(), null, open_null);
}

Result<void> make_readonly(int root_fd, const std::string& path) {
  const UniqueFd target = TRY(open_existing(root_fd, path));
  if (!target) return {};
  const UniqueFd copy = TRY(clone_mount(target.get(), "", true));
  TRY(set_mount_attributes(copy.get(), MOUNT_ATTR_RDONLY, 0, true));
  return attach_mount(copy.get(), target.get());
}

}  // namespace

Result<void> mask_paths(int root_fd, const oci::Strings& paths) {
  UniqueFd null;
  UniqueFd empty;
  for (const std::string& path : paths)
    TRY(wrap(mask(root_fd, path, null, empty), fmt::format("mask `{}`", path)));
  return {};
}

Result<void> make_paths_readonly(int root_fd, const oci::Strings& paths) {
  for (const std::string& path : paths)
    TRY(wrap(make_readonly(root_fd, path), fmt::format("make `{}` read-only", path)));
  return {};
}

}  // namespace kiln::agent
