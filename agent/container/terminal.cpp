// SPDX-License-Identifier: Apache-2.0
#include "agent/container/terminal.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <termios.h>

#include <algorithm>

#include "agent/container/mount_calls.h"
#include "agent/container/root_paths.h"
#include "base/file.h"
#include "base/format.h"

namespace kiln::agent {
namespace {

constexpr int kFlags = O_RDWR | O_NOCTTY;

// Invalid: what is there is no pty multiplexer.
UniqueFd find_multiplexer(int root_fd) {
  auto found = open_in_root(root_fd, "/dev/pts/ptmx", O_PATH);
  if (!found) return UniqueFd();
  struct stat status {};
  if (fstat(found->get(), &status) != 0 || !S_ISCHR(status.st_mode) ||
      status.st_rdev != makedev(5, 2) || file_system_magic(found->get()) != DEVPTS_SUPER_MAGIC)
    return UniqueFd();
  return std::move(*found);
}

Result<UniqueFd> open_master(int root_fd) {
  // Looked at before it is opened: opening another kind of file could do harm, or block.
  const UniqueFd found = find_multiplexer(root_fd);
  if (!found) return open_file("/dev/pts/ptmx", kFlags);
  return open_file(fmt::format("/proc/self/fd/{}", found.get()), kFlags);
}

uint16_t characters(uint32_t count) {
  return static_cast<uint16_t>(std::min<uint32_t>(count, UINT16_MAX));
}

}  // namespace

Result<Terminal> open_terminal(int root_fd, const oci::Process& process, uid_t owner) {
  Terminal terminal;
  terminal.master = TRY(wrap(open_master(root_fd), "terminal"));
  int locked = 0;
  if (ioctl(terminal.master.get(), TIOCSPTLCK, &locked) != 0)
    return sys_error("unlock the terminal");
  // By the master, not by a name in the container's /dev/pts.
  terminal.slave.reset(ioctl(terminal.master.get(), TIOCGPTPEER, kFlags | O_CLOEXEC));
  if (!terminal.slave) return sys_error("open the terminal's other end");
  if (process.console_size) {
    winsize size{};
    size.ws_row = characters(process.console_size->height);
    size.ws_col = characters(process.console_size->width);
    if (ioctl(terminal.master.get(), TIOCSWINSZ, &size) != 0)
      return sys_error("set the terminal's size");
  }
  if (fchown(terminal.slave.get(), owner, static_cast<gid_t>(-1)) != 0)
    return sys_error("set the terminal's owner");
  return terminal;
}

Result<void> bind_console(int root_fd, int slave_fd) {
  const UniqueFd target = TRY(make_file_in_root(root_fd, "/dev/console"));
  const UniqueFd mount = TRY(clone_mount(slave_fd, "", false));
  return wrap(attach_mount(mount.get(), target.get()), "mount the terminal at `/dev/console`");
}

Result<void> take_terminal(int slave_fd) {
  if (ioctl(slave_fd, TIOCSCTTY, 0) != 0) return sys_error("make the terminal the controlling one");
  return {};
}

}  // namespace kiln::agent
