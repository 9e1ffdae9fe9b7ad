// SPDX-License-Identifier: Apache-2.0
#include "runtime/console.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cstdlib>

#include "base/unix_socket.h"

namespace kiln::runtime {
namespace {

constexpr size_t kMaxNameBytes = 4096;  // of a received terminal

}  // namespace

Result<Pty> open_pty(std::optional<winsize> size) {
  Pty pty;
  pty.master.reset(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!pty.master) return sys_error("open `/dev/ptmx`");
  if (unlockpt(pty.master.get()) != 0) return sys_error("unlock a terminal");
  // By descriptor: a path under /dev/pts may belong to another mount of it.
  pty.slave.reset(ioctl(pty.master.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!pty.slave) return sys_error("open a terminal's slave");
  termios mode{};
  if (tcgetattr(pty.slave.get(), &mode) != 0) return sys_error("read a terminal's mode");
  cfmakeraw(&mode);
  if (tcsetattr(pty.slave.get(), TCSANOW, &mode) != 0) return sys_error("set a terminal's mode");
  if (size && ioctl(pty.slave.get(), TIOCSWINSZ, &*size) != 0)
    return sys_error("set a terminal's size");
  return pty;
}

Result<void> take_terminal(int slave) {
  if (ioctl(slave, TIOCSCTTY, 0) != 0) return sys_error("take the controlling terminal");
  return {};
}

Result<void> send_master(int socket, int master) {
  const std::array<int, 1> fds{master};
  return send_with_fds(socket, "/dev/ptmx", fds);
}

Result<UniqueFd> receive_master(int socket) {
  auto message = TRY(receive_with_fds(socket, kMaxNameBytes));
  if (message.fds.size() != 1)
    return make_error(ErrorKind::kUnavailable, "no terminal arrived over the console socket");
  return std::move(message.fds.front());
}

std::optional<winsize> window_size(int terminal) {
  winsize size{};
  if (ioctl(terminal, TIOCGWINSZ, &size) != 0 || size.ws_row == 0 || size.ws_col == 0) return {};
  return size;
}

void copy_window_size(int from_terminal, int to_terminal) {
  if (const auto size = window_size(from_terminal)) ioctl(to_terminal, TIOCSWINSZ, &*size);
}

RawMode::RawMode(int terminal) : terminal_(terminal) {
  termios mode{};
  if (tcgetattr(terminal, &mode) != 0) return;
  before_ = mode;
  cfmakeraw(&mode);
  tcsetattr(terminal, TCSANOW, &mode);
}

RawMode::~RawMode() {
  if (before_) tcsetattr(terminal_, TCSADRAIN, &*before_);
}

}  // namespace kiln::runtime
