// SPDX-License-Identifier: Apache-2.0
#include "vmm/confine/empty_root.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/format.h"
#include "base/unique_fd.h"

namespace kiln::vmm {
namespace {

constexpr unsigned kHarmless = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;

// A tmpfs that is mounted nowhere yet. As small as it gets: nobody writes to it once it is the
// root.
Result<UniqueFd> make_tmpfs() {
  const UniqueFd context(fsopen("tmpfs", FSOPEN_CLOEXEC));
  if (!context) return sys_error("open a tmpfs");
  constexpr const char* kOptions[][2] = {{"size", "4096"}, {"nr_inodes", "32"}, {"mode", "0555"}};
  for (const auto& [key, value] : kOptions) {
    if (fsconfig(context.get(), FSCONFIG_SET_STRING, key, value, 0) != 0)
      return sys_error(format("set `{}` of a tmpfs", key));
  }
  if (fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return sys_error("create a tmpfs");
  UniqueFd mount(fsmount(context.get(), FSMOUNT_CLOEXEC, kHarmless));
  if (!mount) return sys_error("mount a tmpfs");
  return mount;
}

Result<void> make_place(int root, const std::string& place) {
  for (size_t end = 0; end != std::string::npos;) {
    end = place.find('/', end + 1);
    const std::string directory = place.substr(0, end);
    if (mkdirat(root, directory.c_str(), 0555) != 0 && errno != EEXIST)
      return sys_error(format("make `{}`", directory));
  }
  return {};
}

// The directory's own copy of its mount: what `..` of its root leads to is that root.
Result<UniqueFd> copy_mount(const std::string& source) {
  UniqueFd tree(open_tree(AT_FDCWD, source.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
  if (!tree) return sys_error(format("copy the mount of `{}`", source));
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_RDONLY | kHarmless;
  if (mount_setattr(tree.get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes) != 0)
    return sys_error(format("make the mount of `{}` read-only", source));
  return tree;
}

Result<void> change_root(int root) {
  if (fchdir(root) != 0) return sys_error("change the working directory");
  // With both names the same, the old root comes to lie upon the new one (pivot_root(2)).
  if (syscall(SYS_pivot_root, ".", ".") == 0) {
    if (umount2(".", MNT_DETACH) != 0) return sys_error("unmount the old root");
  } else if (errno == EINVAL) {
    // An initramfs, which nothing can take the place of. It stays below, where no path leads.
    if (chroot(".") != 0) return sys_error("change the root");
  } else {
    return sys_error("change the root");
  }
  return chdir("/") == 0 ? Result<void>() : sys_error("change the working directory");
}

}  // namespace

Result<void> enter_empty_root(const std::vector<KeptDirectory>& kept) {
  // What is mounted here from now on is nobody else's matter.
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    return sys_error("make the mounts private");
  const UniqueFd root = TRY(make_tmpfs());
  std::vector<UniqueFd> copies;
  for (const KeptDirectory& directory : kept) {
    copies.push_back(TRY(copy_mount(directory.source)));
    TRY(make_place(root.get(), directory.place));
  }
  if (move_mount(root.get(), "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) != 0)
    return sys_error("mount the new root");
  for (size_t i = 0; i < kept.size(); ++i) {
    if (move_mount(copies[i].get(), "", root.get(), kept[i].place.c_str(),
                   MOVE_MOUNT_F_EMPTY_PATH) != 0)
      return sys_error(format("mount `{}`", kept[i].place));
  }
  TRY(change_root(root.get()));
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_RDONLY;
  if (mount_setattr(AT_FDCWD, "/", 0, &attributes, sizeof attributes) != 0)
    return sys_error("make the root read-only");
  return {};
}

}  // namespace kiln::vmm
