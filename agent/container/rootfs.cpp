// SPDX-License-Identifier: Apache-2.0
#include "agent/container/rootfs.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

#include "agent/container/block_mount.h"
#include "agent/container/mount_calls.h"
#include "base/file.h"
#include "base/format.h"

namespace kiln::agent {
namespace {

constexpr char kScratch[] = "/run";
constexpr char kNewRoot[] = "/run/root";

Result<void> mount_upper(const std::string& directory, uint64_t size_bytes) {
  std::string data = "mode=0700";
  if (size_bytes != 0) data += fmt::format(",size={}", size_bytes);
  if (mount("tmpfs", directory.c_str(), "tmpfs", MS_NODEV | MS_NOSUID, data.c_str()) != 0)
    return sys_error("mount a tmpfs");
  return {};
}

// The merged root has the owner and mode of the upper directory: those of the lower one. A disk has
// it from its first use.
Result<void> make_upper(const std::string& directory, int lower_fd) {
  const std::string upper = directory + "/upper";
  const std::string work = directory + "/work";
  if (mkdir(work.c_str(), 0700) != 0 && errno != EEXIST)
    return sys_error("create the work directory");
  if (mkdir(upper.c_str(), 0755) != 0) {
    if (errno == EEXIST) return {};
    return sys_error("create the upper directory");
  }
  struct stat lower {};
  if (fstat(lower_fd, &lower) != 0) return sys_error("stat the root file system");
  if (chown(upper.c_str(), lower.st_uid, lower.st_gid) != 0 ||
      chmod(upper.c_str(), lower.st_mode & 07777) != 0)
    return sys_error("set the upper directory's owner");
  return {};
}

Result<UniqueFd> make_overlay(const std::string& directory, int lower_fd) {
  const UniqueFd context(static_cast<int>(syscall(SYS_fsopen, "overlay", FSOPEN_CLOEXEC)));
  if (!context) return sys_error("open the file system type");
  // By descriptor: a path might have the characters that overlayfs takes for separators.
  const std::pair<const char*, std::string> options[] = {
      {"source", "overlay"},
      {"lowerdir", fmt::format("/proc/self/fd/{}", lower_fd)},
      {"upperdir", directory + "/upper"},
      {"workdir", directory + "/work"},
  };
  for (const auto& [key, value] : options) {
    if (syscall(SYS_fsconfig, context.get(), FSCONFIG_SET_STRING, key, value.c_str(), 0) != 0)
      return sys_error(fmt::format("set `{}`", key));
  }
  if (syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return sys_error("create the file system");
  UniqueFd made(static_cast<int>(syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, 0)));
  if (!made) return sys_error("mount the file system");
  return made;
}

Result<UniqueFd> overlay_on(const ContainerSetup& setup, const std::string& lower_path,
                            const std::string& directory) {
  const UniqueFd lower = TRY(open_file(lower_path, O_PATH | O_DIRECTORY));
  TRY(mount_upper(directory, setup.overlay_size_bytes));
  auto made = make_upper(directory, lower.get());
  auto overlay = made ? make_overlay(directory, lower.get())
                      : Result<UniqueFd>(tl::unexpected(std::move(made.error())));
  // The overlay keeps the tmpfs alive.
  umount2(directory.c_str(), MNT_DETACH);
  return overlay;
}

// An empty directory that is gone with the object.
class ScratchDirectory {
 public:
  static Result<ScratchDirectory> create() {
    std::string path = "/run/kiln-root-XXXXXX";
    if (mkdtemp(path.data()) == nullptr) return sys_error("create a directory in `/run`");
    return ScratchDirectory(std::move(path));
  }
  ScratchDirectory(ScratchDirectory&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  ScratchDirectory& operator=(ScratchDirectory&&) = delete;
  ~ScratchDirectory() {
    if (!path_.empty()) rmdir(path_.c_str());
  }
  const std::string& path() const { return path_; }

 private:
  explicit ScratchDirectory(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

// An overlay's layers must be mounted in the namespace of who makes it.
Result<UniqueFd> overlay_on_device(const ContainerSetup& setup, int root_fd,
                                   const std::string& directory) {
  const ScratchDirectory lower = TRY(ScratchDirectory::create());
  const UniqueFd place = TRY(open_file(lower.path(), O_PATH | O_DIRECTORY));
  TRY(attach_mount(root_fd, place.get()));
  auto overlay = overlay_on(setup, lower.path(), directory);
  umount2(lower.path().c_str(), MNT_DETACH);
  return overlay;
}

Result<UniqueFd> open_device_root(const ContainerSetup& setup) {
  UniqueFd root = TRY(mount_block_device(*setup.root_device, 0, ""));
  if (!setup.overlay) return root;
  const ScratchDirectory directory = TRY(ScratchDirectory::create());
  return wrap(overlay_on_device(setup, root.get(), directory.path()), "overlay");
}

Result<std::string> mount_in(const std::string& directory, const std::string& name,
                             const BlockSource& source) {
  const UniqueFd made = TRY(wrap(mount_block_device(source, 0, ""), source.device));
  std::string path = directory + "/" + name;
  if (mkdir(path.c_str(), 0700) != 0) return sys_error("create a directory for a layer");
  const UniqueFd place = TRY(open_file(path, O_PATH | O_DIRECTORY));
  TRY(attach_mount(made.get(), place.get()));
  return path;
}

Result<UniqueFd> overlay_of_layers(const ContainerSetup& setup, const std::string& directory) {
  std::string options = "lowerdir=";
  std::string top;
  for (size_t i = 0; i < setup.root_layers.size(); ++i) {
    const std::string path = TRY(mount_in(directory, fmt::format("{}", i), setup.root_layers[i]));
    options += (i == 0 ? "" : ":") + path;
    if (i == 0) top = path;
  }
  if (setup.root_upper) {
    const std::string disk = TRY(mount_in(directory, "disk", *setup.root_upper));
    const UniqueFd lower = TRY(open_file(top, O_PATH | O_DIRECTORY));
    TRY(make_upper(disk, lower.get()));
    options += fmt::format(",upperdir={0}/upper,workdir={0}/work", disk);
  } else if (setup.root_layers.size() == 1) {
    return clone_mount(AT_FDCWD, top, false);  // overlayfs wants two
  }
  const std::string merged = directory + "/merged";
  if (mkdir(merged.c_str(), 0700) != 0) return sys_error("create a directory for the overlay");
  // fsconfig(2) takes 256 bytes of an option at most; these paths have nothing to be escaped.
  if (mount("overlay", merged.c_str(), "overlay", 0, options.c_str()) != 0)
    return sys_error("mount the overlay");
  return clone_mount(AT_FDCWD, merged, false);
}

// Each on a drive of its own: what is in an image, the host's kernel never parses.
Result<UniqueFd> open_layers(const ContainerSetup& setup) {
  const ScratchDirectory directory = TRY(ScratchDirectory::create());
  TRY(mount_upper(directory.path(), 0));  // for the layers' directories
  auto root = overlay_of_layers(setup, directory.path());
  // With what is mounted below; the overlay keeps the layers.
  umount2(directory.path().c_str(), MNT_DETACH);
  return root;
}

}  // namespace

Result<UniqueFd> open_rootfs(const ContainerSetup& setup) {
  std::string what = fmt::format("root file system `{}`",
                                 setup.root_device ? setup.root_device->device : setup.rootfs);
  UniqueFd root;
  if (!setup.root_layers.empty()) {
    what = "root file system of layers";
    root = TRY(wrap(open_layers(setup), what));
  } else if (setup.root_device) {
    root = TRY(wrap(open_device_root(setup), what));
  } else if (setup.overlay) {
    const ScratchDirectory directory = TRY(ScratchDirectory::create());
    root = TRY(wrap(overlay_on(setup, setup.rootfs, directory.path()), "overlay on " + what));
  } else {
    root = TRY(wrap(clone_mount(AT_FDCWD, setup.rootfs, true), what));
  }
  TRY(wrap(set_mount_propagation(root.get(), MS_PRIVATE | MS_REC), what));
  return root;
}

Result<void> place_rootfs(int rootfs_fd) {
  if (mount(nullptr, "/", nullptr, MS_PRIVATE | MS_REC, nullptr) != 0)
    return sys_error("make the guest's mounts private");
  if (mount("tmpfs", kScratch, "tmpfs", MS_NODEV | MS_NOSUID | MS_NOEXEC, "mode=0700,size=64k") !=
      0)
    return sys_error("mount a scratch directory");
  if (mkdir(kNewRoot, 0700) != 0 || mkdir(kStage, 0700) != 0)
    return sys_error("create the scratch directories");
  const UniqueFd target = TRY(open_file(kNewRoot, O_PATH | O_DIRECTORY));
  return wrap(attach_mount(rootfs_fd, target.get()), "root file system");
}

Result<void> enter_root(int rootfs_fd) {
  if (fchdir(rootfs_fd) != 0) return sys_error("enter the root file system");
  // pivot_root(2), NOTES: the old root lies on top of the new one, and goes.
  if (syscall(SYS_pivot_root, ".", ".") != 0) return sys_error("pivot_root");
  if (umount2(".", MNT_DETACH) != 0) return sys_error("unmount the guest's root");
  if (chdir("/") != 0) return sys_error("enter `/`");
  return {};
}

Result<void> set_root_propagation(int rootfs_fd, const std::string& propagation) {
  if (propagation.empty()) return {};
  const bool recursive = propagation[0] == 'r';
  const std::string name = propagation.substr(recursive ? 1 : 0);
  unsigned long flag = MS_PRIVATE;
  if (name == "shared") flag = MS_SHARED;
  if (name == "slave") flag = MS_SLAVE;
  if (name == "unbindable") flag = MS_UNBINDABLE;
  return wrap(set_mount_propagation(rootfs_fd, recursive ? flag | MS_REC : flag),
              fmt::format("rootfsPropagation `{}`", propagation));
}

}  // namespace kiln::agent
