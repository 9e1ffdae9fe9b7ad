// SPDX-License-Identifier: Apache-2.0
#include "runtime/container_view.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "base/file.h"
#include "base/format.h"
#include "base/log.h"
#include "oci/mount_options.h"

namespace kiln::runtime {
namespace {

// <sys/mount.h> cannot be included beside <linux/mount.h>.
constexpr unsigned long kPrivate = 1UL << 18;    // MS_PRIVATE
constexpr unsigned long kRecursive = 1UL << 14;  // MS_REC
constexpr int kDetach = 2;                       // MNT_DETACH

// Private too: what is mounted in a copy must not appear in its original on the host.
Result<void> set_attributes(int mount, uint64_t attributes, bool recursive) {
  mount_attr wanted{};
  wanted.attr_set = attributes;
  wanted.propagation = kPrivate;
  const unsigned flags = AT_EMPTY_PATH | static_cast<unsigned>(recursive ? AT_RECURSIVE : 0);
  if (syscall(SYS_mount_setattr, mount, "", flags, &wanted, sizeof wanted) != 0)
    return sys_error("set a mount's attributes");
  return {};
}

Result<void> attach(int mount, int target_directory, const char* target) {
  constexpr unsigned kFlags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
  if (syscall(SYS_move_mount, mount, "", target_directory, target, kFlags) != 0)
    return sys_error("attach a mount");
  return {};
}

Result<UniqueFd> empty_directory() {
  const UniqueFd context(static_cast<int>(syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC)));
  if (!context ||
      syscall(SYS_fsconfig, context.get(), FSCONFIG_SET_STRING, "mode", "0755", 0) != 0 ||
      syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return sys_error("make a tmpfs");
  UniqueFd mount(static_cast<int>(
      syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC,
              MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)));
  if (!mount) return sys_error("mount a tmpfs");
  return mount;
}

bool is_same_file(int one, int other) {
  struct stat first {};
  struct stat second {};
  return fstat(one, &first) == 0 && fstat(other, &second) == 0 && first.st_dev == second.st_dev &&
         first.st_ino == second.st_ino;
}

// Another copy of what is shared. A detached mount cannot be copied itself (before Linux 6.15), so
// its path is asked again; it has to lead to the same file. No descriptor: it does not.
Result<UniqueFd> copy_share(const Share& share) {
  constexpr unsigned kFlags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE;
  UniqueFd tree(static_cast<int>(syscall(SYS_open_tree, AT_FDCWD, share.source.c_str(), kFlags)));
  if (!tree) return sys_error(fmt::format("copy the mount `{}`", share.source));
  if (!is_same_file(tree.get(), share.fd.get())) return UniqueFd();
  const uint64_t read_only = share.read_only ? MOUNT_ATTR_RDONLY : 0;
  TRY(set_attributes(tree.get(), MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | read_only, true));
  if (share.top_read_only) TRY(set_attributes(tree.get(), MOUNT_ATTR_RDONLY, false));
  return tree;
}

}  // namespace

Result<std::optional<ContainerView>> ContainerView::open(const oci::Spec& spec,
                                                         const Shares& shares) {
  ContainerView view;
  auto root = shares.has_root ? copy_share(shares.list.front()) : empty_directory();
  if (!root && root.error().sys_errno == EPERM) return std::nullopt;
  view.root_ = TRY(std::move(root));
  if (!view.root_) return invalid_argument("the rootfs has changed its place");
  for (size_t i = 0; i < spec.mounts.size(); ++i) {
    const auto options = oci::parse_mount_options(spec.mounts[i].options);
    if (options && options->remount) continue;
    if (shares.sockets.contains(i)) continue;  // a file that is empty is there
    Mount mount{spec.mounts[i].destination, UniqueFd()};
    if (const auto found = shares.bind_entries.find(i); found != shares.bind_entries.end()) {
      const auto share = std::find_if(shares.list.begin(), shares.list.end(),
                                      [&](const Share& s) { return s.entry == found->second; });
      mount.tree = TRY(copy_share(*share));
    }
    view.mounts_.push_back(std::move(mount));
  }
  return std::optional(std::move(view));
}

Result<void> ContainerView::enter(const std::string& stage) {
  if (unshare(CLONE_FS | CLONE_NEWNS) != 0) return sys_error("make a mount namespace");
  if (syscall(SYS_mount, nullptr, "/", nullptr, kPrivate | kRecursive, nullptr) != 0)
    return sys_error("make the mounts private");
  {
    const UniqueFd place = TRY(open_file(stage, O_PATH | O_DIRECTORY));
    TRY(attach(root_.get(), place.get(), ""));
  }
  if (fchdir(root_.get()) != 0) return sys_error("enter the rootfs");
  if (syscall(SYS_pivot_root, ".", ".") != 0) return sys_error("make the rootfs the root");
  if (syscall(SYS_umount2, ".", kDetach) != 0) return sys_error("leave the host's mounts");
  if (chdir("/") != 0) return sys_error("enter the root");
  return add_mounts();
}

// The guest may be changing the rootfs meanwhile: nothing here leaves it, and what cannot be
// mounted is not there for the engine.
Result<void> ContainerView::add_mounts() {
  for (const Mount& mount : mounts_) {
    const auto place = open_beneath(root_.get(), mount.destination, O_PATH,
                                    RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
    if (!place) continue;
    Result<void> done;
    if (mount.tree) {
      done = attach(mount.tree.get(), place->get(), "");
    } else {
      done = attach(TRY(empty_directory()).get(), place->get(), "");
    }
    if (!done) log_debug("show `{}`: {}, ignoring", mount.destination, done.error().message);
  }
  mounts_.clear();
  root_.reset();
  return {};
}

}  // namespace kiln::runtime
