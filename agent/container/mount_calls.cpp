// SPDX-License-Identifier: Apache-2.0
#include "agent/container/mount_calls.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/file.h"

namespace kiln::agent {
namespace {

struct FlagPair {
  unsigned long flag;
  uint64_t attribute;
};

constexpr unsigned long kAtimeFlags = MS_NOATIME | MS_RELATIME | MS_STRICTATIME;

constexpr FlagPair kFlags[] = {
    {MS_RDONLY, MOUNT_ATTR_RDONLY},         {MS_NOSUID, MOUNT_ATTR_NOSUID},
    {MS_NODEV, MOUNT_ATTR_NODEV},           {MS_NOEXEC, MOUNT_ATTR_NOEXEC},
    {MS_NODIRATIME, MOUNT_ATTR_NODIRATIME}, {MS_NOSYMFOLLOW, MOUNT_ATTR_NOSYMFOLLOW},
};

}  // namespace

Result<UniqueFd> clone_mount(int directory_fd, const std::string& path, bool recursive) {
  unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
  if (recursive) flags |= AT_RECURSIVE;
  if (path.empty()) flags |= AT_EMPTY_PATH;
  UniqueFd fd(static_cast<int>(syscall(SYS_open_tree, directory_fd, path.c_str(), flags)));
  if (!fd) return sys_error("copy the mount");
  return fd;
}

Result<void> attach_mount(int mount_fd, int target_fd) {
  if (syscall(SYS_move_mount, mount_fd, "", target_fd, "",
              MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) != 0)
    return sys_error("attach the mount");
  return {};
}

Result<void> set_mount_attributes(int mount_fd, uint64_t set, uint64_t clear, bool recursive) {
  if (set == 0 && clear == 0) return {};
  mount_attr attributes{};
  attributes.attr_set = set;
  attributes.attr_clr = clear;
  const unsigned flags = AT_EMPTY_PATH | static_cast<unsigned>(recursive ? AT_RECURSIVE : 0);
  if (syscall(SYS_mount_setattr, mount_fd, "", flags, &attributes, sizeof attributes) != 0)
    return sys_error("set the mount's attributes");
  return {};
}

Result<void> set_mount_propagation(int mount_fd, unsigned long flags) {
  mount_attr attributes{};
  attributes.propagation = flags & ~static_cast<unsigned long>(MS_REC);
  const bool recursive = (flags & MS_REC) != 0;
  const unsigned at = AT_EMPTY_PATH | static_cast<unsigned>(recursive ? AT_RECURSIVE : 0);
  if (syscall(SYS_mount_setattr, mount_fd, "", at, &attributes, sizeof attributes) != 0)
    return sys_error("set the mount's propagation");
  return {};
}

Result<void> set_mount_id_map(int mount_fd, int user_namespace_fd, bool recursive) {
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_IDMAP;
  attributes.userns_fd = static_cast<uint64_t>(user_namespace_fd);
  const unsigned at = AT_EMPTY_PATH | static_cast<unsigned>(recursive ? AT_RECURSIVE : 0);
  if (syscall(SYS_mount_setattr, mount_fd, "", at, &attributes, sizeof attributes) != 0)
    return sys_error("map the mount's ids");
  return {};
}

MountAttributes attributes_of_flags(unsigned long set, unsigned long clear) {
  MountAttributes out;
  for (const FlagPair& pair : kFlags) {
    if ((set & pair.flag) != 0) out.set |= pair.attribute;
    if ((clear & pair.flag) != 0) out.clear |= pair.attribute;
  }
  // mount_setattr(2): relatime, the kernel's default, is the field's value 0.
  if (((set | clear) & kAtimeFlags) != 0) out.clear |= MOUNT_ATTR__ATIME;
  if ((set & MS_NOATIME) != 0) out.set |= MOUNT_ATTR_NOATIME;
  if ((set & MS_STRICTATIME) != 0) out.set |= MOUNT_ATTR_STRICTATIME;
  return out;
}

uint64_t file_system_magic(int fd) {
  struct statfs status {};
  if (retry_eintr([&] { return fstatfs(fd, &status); }) != 0) return 0;
  return static_cast<uint64_t>(status.f_type);
}

}  // namespace kiln::agent
