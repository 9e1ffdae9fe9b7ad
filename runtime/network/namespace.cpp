// SPDX-License-Identifier: Apache-2.0
#include "runtime/network/namespace.h"

#include <linux/nsfs.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cstring>

#include "base/file.h"
#include "base/format.h"

namespace kiln::runtime {
namespace {

// As runc does: who enters the namespace from outside finds it usable.
Result<void> bring_up_loopback() {
  const UniqueFd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd) return sys_error("create a socket");
  ifreq request{};
  std::strcpy(static_cast<char*>(request.ifr_name), "lo");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (ioctl(fd.get(), SIOCSIFFLAGS, &request) != 0) return sys_error("bring up `lo`");
  return {};
}

}  // namespace

Result<UniqueFd> current_network_namespace() {
  return open_file("/proc/thread-self/ns/net", O_RDONLY);
}

Result<UniqueFd> open_network_namespace(const std::string& path) {
  UniqueFd fd = TRY(wrap(open_file(path, O_RDONLY), "network namespace"));
  // runtime-spec 1.2 config-linux.md#namespaces: a path of another type is an error.
  if (ioctl(fd.get(), NS_GET_NSTYPE) != CLONE_NEWNET)
    return invalid_argument(fmt::format("`{}` is not a network namespace", path));
  return fd;
}

Result<bool> is_same_namespace(int one, int other) {
  struct stat first {};
  struct stat second {};
  if (fstat(one, &first) != 0 || fstat(other, &second) != 0)
    return sys_error("look at a network namespace");
  return first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

Result<void> enter_network_namespace(int fd) {
  if (setns(fd, CLONE_NEWNET) != 0) return sys_error("enter a network namespace");
  return {};
}

Result<void> enter_new_network_namespace(int fd) {
  TRY(enter_network_namespace(fd));
  return bring_up_loopback();
}

Result<void> make_network_namespace() {
  if (unshare(CLONE_NEWNET) != 0) return sys_error("create a network namespace");
  return bring_up_loopback();
}

}  // namespace kiln::runtime
