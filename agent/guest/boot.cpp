// SPDX-License-Identifier: Apache-2.0
#include "agent/guest/boot.h"

#include <fcntl.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "agent/container/directory.h"
#include "agent/guest/module_request.h"
#include "agent/guest/modules.h"
#include "agent/protocol/messages.h"
#include "base/file.h"
#include "base/format.h"
#include "base/log.h"

namespace kiln::agent {
namespace {

constexpr const char* kNewRoot = "/new-root";
constexpr const char* kCgroupRoot = "/sys/fs/cgroup";
constexpr rlim_t kMaxOpenFiles = 1U << 20;  // fs.nr_open's default
constexpr rlim_t kOpenFiles = 65536;        // of ours: streams, pidfds, cgroup files

struct SystemMount {
  const char* source;
  const char* target;
  const char* type;
  unsigned long flags;
  const char* data;
};

constexpr unsigned long kPlainFlags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
constexpr SystemMount kMounts[] = {
    {"proc", "/proc", "proc", kPlainFlags, nullptr},
    {"sysfs", "/sys", "sysfs", kPlainFlags, nullptr},
    {"devtmpfs", "/dev", "devtmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755"},
    {"devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "mode=0620,ptmxmode=0666"},
    {"tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"},
    {"tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755"},
    {"tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"},
};

struct Sysctl {
  const char* path;
  const char* value;
};
constexpr Sysctl kSysctls[] = {
    // The protocol's kMaxPid; the kernel's default shrinks with the number of CPUs.
    {"/proc/sys/kernel/pid_max", "4194304"},
    // An OOM in one container must never take the guest down.
    {"/proc/sys/vm/panic_on_oom", "0"},
    // An oops in a driver that a container can reach ends the guest instead of leaving it half
    // alive.
    {"/proc/sys/kernel/panic_on_oops", "1"},
};

Result<void> mount_one(const SystemMount& entry) {
  TRY(make_directories(entry.target, 0755));
  if (mount(entry.source, entry.target, entry.type, entry.flags, entry.data) != 0)
    return sys_error(fmt::format("mount {} at `{}`", entry.type, entry.target));
  return {};
}

// Shows a directory of the first root at the same place of the new one. Its inode number; 0 if
// there is no such directory.
Result<ino_t> carry_over(const char* directory) {
  struct stat status {};
  if (stat(directory, &status) != 0) return 0;
  const std::string place = fmt::format("{}{}", kNewRoot, directory);
  TRY(make_directories(place, 0755));
  if (mount(directory, place.c_str(), nullptr, MS_BIND, nullptr) != 0)
    return sys_error(fmt::format("carry over `{}`", directory));
  return status.st_ino;
}

Result<void> enable_controllers() {
  const std::string root = kCgroupRoot;
  const std::string controllers = TRY(read_file(root + "/cgroup.controllers", 4096));
  std::vector<std::string> wanted;
  std::string_view rest = controllers;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find_first_of(" \n"), rest.size());
    if (end != 0) wanted.push_back(fmt::format("+{}", rest.substr(0, end)));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  // Each write waits for the kernel once: all in one, as long as none is refused.
  const std::string file = root + "/cgroup.subtree_control";
  if (write_file(file, fmt::format("{}", fmt::join(wanted, " ")))) return {};
  // A controller that cannot be enabled must not keep the others from it.
  for (const std::string& controller : wanted) {
    const auto enabled = write_file(file, controller);
    if (!enabled) log_warning("{}, ignoring", enabled.error().message);
  }
  return {};
}

// Since Linux 6.0; attaching a process to a cgroup waits for an RCU grace period without it.
Result<void> mount_cgroups() {
  SystemMount entry = {"cgroup2", kCgroupRoot, "cgroup2", kPlainFlags,
                       "nsdelegate,memory_recursiveprot,favordynmods"};
  if (mount_one(entry)) return {};
  entry.data = "nsdelegate,memory_recursiveprot";
  return mount_one(entry);
}

Result<void> bring_up_loopback() {
  const UniqueFd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd) return sys_error("create a socket");
  ifreq request{};
  std::strcpy(static_cast<char*>(request.ifr_name), "lo");
  if (ioctl(fd.get(), SIOCGIFFLAGS, &request) != 0) return sys_error("find interface `lo`");
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  if (ioctl(fd.get(), SIOCSIFFLAGS, &request) != 0) return sys_error("bring up `lo`");
  return {};
}

Result<void> raise_limit(__rlimit_resource resource, rlim_t soft, rlim_t hard) {
  const rlimit limit{soft, hard};
  if (setrlimit(resource, &limit) != 0) return sys_error("raise a resource limit");
  return {};
}

void warn(const Result<void>& outcome) {
  if (!outcome) log_warning("{}, ignoring", outcome.error().message);
}

}  // namespace

Result<void> leave_initramfs() {
  // The first root is a ramfs without a parent mount: pivot_root(2) fails in it and in every mount
  // namespace copied from it.
  if (mkdir(kNewRoot, 0755) != 0 && errno != EEXIST) return sys_error("create the new root");
  if (mount("tmpfs", kNewRoot, "tmpfs", MS_NODEV | MS_NOSUID, "mode=0755") != 0)
    return sys_error("mount a root");
  const ino_t modules = TRY(carry_over(kOptionalModuleDirectory));
  const UniqueFd old_root(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!old_root) return sys_error("open `/`");
  if (chdir(kNewRoot) != 0 || mount(".", "/", nullptr, MS_MOVE, nullptr) != 0 || chroot(".") != 0 ||
      chdir("/") != 0)
    return sys_error("enter the new root");
  // Its pages are the guest's memory. Our own program's stay until we end: we run from them.
  remove_contents(old_root.get(), modules);
  return {};
}

Result<void> mount_system() {
  for (const SystemMount& entry : kMounts) TRY(mount_one(entry));
  TRY(mount_cgroups());
  // devtmpfs has none of these; programs that the agent starts may look for them.
  const std::pair<const char*, const char*> links[] = {{"/proc/self/fd", "/dev/fd"},
                                                       {"/proc/self/fd/0", "/dev/stdin"},
                                                       {"/proc/self/fd/1", "/dev/stdout"},
                                                       {"/proc/self/fd/2", "/dev/stderr"}};
  for (const auto& [target, name] : links) {
    if (symlink(target, name) != 0 && errno != EEXIST)
      return sys_error(fmt::format("create `{}`", name));
  }
  return enable_controllers();
}

Result<void> configure_kernel() {
  umask(022);
  reboot(RB_DISABLE_CAD);
  warn(bring_up_loopback());
  warn(raise_limit(RLIMIT_NOFILE, kOpenFiles, kMaxOpenFiles));
  // The guest is one tenant's: the pids cgroup controller is what limits a container.
  warn(raise_limit(RLIMIT_NPROC, RLIM_INFINITY, RLIM_INFINITY));
  for (const Sysctl& entry : kSysctls) warn(write_file(entry.path, entry.value));
  warn(take_module_requests());
  return {};
}

LogFormat open_early_log() {
  if (fcntl(STDERR_FILENO, F_GETFD) >= 0) return LogFormat::kPlain;
  // The initramfs has a node. No descriptor is open, so these are the first three.
  for (int fd = -1; fd < STDERR_FILENO;) {
    fd = open("/dev/kmsg", O_WRONLY);
    if (fd < 0) break;
  }
  return LogFormat::kKernel;
}

Result<LogFormat> open_console() {
  LogFormat format = LogFormat::kPlain;
  UniqueFd console(open("/dev/console", O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!console) {
    format = LogFormat::kKernel;
    console.reset(open("/dev/kmsg", O_WRONLY | O_CLOEXEC));
  }
  if (!console) return sys_error("open `/dev/console`");
  const UniqueFd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!null) return sys_error("open `/dev/null`");
  // Helpers inherit these three.
  const int fd = console.get();
  if (dup2(null.get(), 0) < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0)
    return sys_error("set up the standard streams");
  if (fd <= 2) console.release();
  return format;
}

}  // namespace kiln::agent
