// SPDX-License-Identifier: Apache-2.0
#include "agent/container/devices.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "agent/container/mount_calls.h"
#include "agent/container/root_paths.h"
#include "base/file.h"
#include "base/format.h"
#include "oci/spec.h"

namespace kiln::agent {
namespace {

struct Node {
  std::string path;  // in the container; clean
  mode_t type = S_IFCHR;
  dev_t number = 0;
  mode_t mode = 0666;
  uid_t uid = 0;
  gid_t gid = 0;
};

// runtime-spec 1.2 config-linux.md#default-devices, without console (the terminal's) and ptmx.
constexpr struct {
  const char* path;
  unsigned major;
  unsigned minor;
} kDefaultNodes[] = {
    {"/dev/null", 1, 3},   {"/dev/zero", 1, 5},    {"/dev/full", 1, 7},
    {"/dev/random", 1, 8}, {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0},
};

// runtime-spec 1.2 runtime-linux.md#dev-symbolic-links.
constexpr struct {
  const char* path;
  const char* target;
} kLinks[] = {
    {"/dev/fd", "/proc/self/fd"},
    {"/dev/stdin", "/proc/self/fd/0"},
    {"/dev/stdout", "/proc/self/fd/1"},
    {"/dev/stderr", "/proc/self/fd/2"},
};

constexpr char kPtmx[] = "/dev/ptmx";

// The umask would take bits from mknod(2)'s mode. The caller's process has one thread.
class ZeroUmask {
 public:
  ZeroUmask() : before_(::umask(0)) {}
  ~ZeroUmask() { ::umask(before_); }
  ZeroUmask(const ZeroUmask&) = delete;
  ZeroUmask& operator=(const ZeroUmask&) = delete;

 private:
  mode_t before_;
};

struct Place {
  UniqueFd parent;   // O_PATH
  std::string name;  // a plain one
};

Result<Place> open_place(int rootfs_fd, const std::string& path) {
  const size_t slash = path.find_last_of('/');
  Place place;
  place.name = path.substr(slash + 1);
  if (place.name.empty()) return invalid_argument("is no path of a file");
  place.parent = TRY(make_directory_in_root(rootfs_fd, slash == 0 ? "/" : path.substr(0, slash)));
  return place;
}

// Whatever has the name, itself; a symbolic link is not followed.
Result<UniqueFd> open_itself(const Place& place) {
  return open_beneath(place.parent.get(), place.name, O_PATH | O_NOFOLLOW, RESOLVE_BENEATH);
}

// False if something is mounted there: the config has put it there.
Result<bool> make_room(const Place& place) {
  if (::unlinkat(place.parent.get(), place.name.c_str(), 0) == 0 || errno == ENOENT) return true;
  if (errno == EBUSY) return false;
  return sys_error("remove what is in its place");
}

bool is_node(int fd, const Node& node) {
  struct stat status {};
  if (::fstat(fd, &status) != 0 || (status.st_mode & S_IFMT) != node.type) return false;
  return node.type == S_IFIFO || status.st_rdev == node.number;
}

// By descriptor: the container's other processes may rename in the file system at will.
Result<void> set_owner_and_mode(int fd, const Node& node) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) return sys_error("stat");
  if ((status.st_uid != node.uid || status.st_gid != node.gid) &&
      ::fchownat(fd, "", node.uid, node.gid, AT_EMPTY_PATH) != 0)
    return sys_error("set the owner");
  // fchmod(2) refuses O_PATH descriptors.
  if ((status.st_mode & 07777) != node.mode &&
      ::chmod(fmt::format("/proc/self/fd/{}", fd).c_str(), node.mode) != 0)
    return sys_error("set the mode");
  return {};
}

// The name of the guest's own node, for a device whose name the container has chosen.
std::string name_in_guest(const Node& node) {
  const char* kind = node.type == S_IFBLK ? "block" : "char";
  const auto text = read_file(
      fmt::format("/sys/dev/{}/{}:{}/uevent", kind, major(node.number), minor(node.number)));
  constexpr std::string_view key = "DEVNAME=";
  const size_t begin = text ? text->find(key) : std::string::npos;
  if (begin == std::string::npos) return {};
  const size_t name = begin + key.size();
  return "/dev/" + text->substr(name, text->find('\n', name) - name);
}

// The clone is checked, not the path: a container may have mounted the guest's only devtmpfs.
Result<UniqueFd> clone_guest_node(const Node& node) {
  for (const std::string& path : {node.path, name_in_guest(node)}) {
    if (path.rfind("/dev/", 0) != 0) continue;
    auto mount = clone_mount(AT_FDCWD, path, false);
    if (mount && is_node(mount->get(), node)) return mount;
  }
  return make_error(ErrorKind::kNotFound, fmt::format("the guest has no device {} {}:{}",
                                                      node.type == S_IFBLK ? 'b' : 'c',
                                                      major(node.number), minor(node.number)));
}

Result<void> bind_node(const Place& place, const Node& node) {
  const UniqueFd mount = TRY(clone_guest_node(node));
  if (auto existing = open_itself(place); existing && is_node(existing->get(), node)) return {};
  if (!TRY(make_room(place))) return {};
  const UniqueFd target(::openat(place.parent.get(), place.name.c_str(),
                                 O_RDONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644));
  if (!target) return sys_error("make a mount point");
  return attach_mount(mount.get(), target.get());
}

Result<void> create_node(int rootfs_fd, const Node& node, bool bind) {
  const Place place = TRY(open_place(rootfs_fd, node.path));
  if (bind && node.type != S_IFIFO) return bind_node(place, node);
  if (auto existing = open_itself(place)) {
    if (is_node(existing->get(), node)) return set_owner_and_mode(existing->get(), node);
    if (!TRY(make_room(place))) return {};
  }
  if (::mknodat(place.parent.get(), place.name.c_str(), node.type | node.mode, node.number) != 0) {
    // A file system that is somebody else's to make nodes in, such as a share.
    if (errno == EPERM && node.type != S_IFIFO) return bind_node(place, node);
    return sys_error("make the node");
  }
  const UniqueFd made = TRY(open_itself(place));
  if (!is_node(made.get(), node))
    return make_error(ErrorKind::kAborted, "was replaced by something else");
  return set_owner_and_mode(made.get(), node);
}

Result<Node> node_of(const oci::Device& device) {
  Node node;
  node.path = clean_path(device.path);
  if (device.type == "b")
    node.type = S_IFBLK;
  else if (device.type == "p")
    node.type = S_IFIFO;
  else if (device.type != "c" && device.type != "u")
    return invalid_argument(fmt::format("type must be b, c, u or p, is `{}`", device.type));
  if (node.type != S_IFIFO) {
    // The kernel's dev_t: 12 and 20 bits.
    if (device.major < 0 || device.major >= 1 << 12 || device.minor < 0 ||
        device.minor >= 1 << 20) {
      return invalid_argument(fmt::format("{}:{} is no device number", device.major, device.minor));
    }
    node.number = makedev(static_cast<unsigned>(device.major), static_cast<unsigned>(device.minor));
  }
  node.mode = device.file_mode.value_or(0666) & 07777;
  node.uid = device.uid.value_or(0);
  node.gid = device.gid.value_or(0);
  return node;
}

Result<void> create_link(int rootfs_fd, const std::string& path, const char* target) {
  const Place place = TRY(open_place(rootfs_fd, path));
  if (::symlinkat(target, place.parent.get(), place.name.c_str()) == 0 || errno == EEXIST)
    return {};
  return sys_error("make a symbolic link");
}

// A node of that name in the root file system would be that of the guest's own devpts.
Result<void> create_ptmx(int rootfs_fd) {
  const Place place = TRY(open_place(rootfs_fd, kPtmx));
  if (!TRY(make_room(place))) return {};
  if (::symlinkat("pts/ptmx", place.parent.get(), place.name.c_str()) != 0)
    return sys_error("make a symbolic link");
  return {};
}

bool binds_own_dev(const oci::Spec& spec) {
  return std::any_of(spec.mounts.begin(), spec.mounts.end(), [](const oci::Mount& mount) {
    if (clean_path(mount.destination) != "/dev") return false;
    return mount.type == "bind" ||
           std::any_of(mount.options.begin(), mount.options.end(), [](const std::string& option) {
             return option == "bind" || option == "rbind";
           });
  });
}

}  // namespace

Result<void> create_devices(int rootfs_fd, const oci::Spec& spec) {
  // As with runc: who brings a /dev brings all of it.
  if (binds_own_dev(spec)) return {};
  const bool bind = oci::find_namespace(spec.linux, "user") != nullptr;
  const ZeroUmask zero_umask;
  for (const auto& entry : kDefaultNodes) {
    const Node node{.path = entry.path, .number = makedev(entry.major, entry.minor)};
    TRY(wrap(create_node(rootfs_fd, node, bind), fmt::format("device `{}`", entry.path)));
  }
  for (const oci::Device& device : spec.linux.devices) {
    const std::string what = fmt::format("linux.devices `{}`", device.path);
    const Node node = TRY(wrap(node_of(device), what));
    if (node.path == kPtmx) continue;
    TRY(wrap(create_node(rootfs_fd, node, bind), what));
  }
  TRY(wrap(create_ptmx(rootfs_fd), fmt::format("device `{}`", kPtmx)));
  for (const auto& link : kLinks)
    TRY(wrap(create_link(rootfs_fd, link.path, link.target), fmt::format("`{}`", link.path)));
  if (::access("/proc/kcore", F_OK) == 0)
    TRY(wrap(create_link(rootfs_fd, "/dev/core", "/proc/kcore"), "`/dev/core`"));
  return {};
}

}  // namespace kiln::agent
