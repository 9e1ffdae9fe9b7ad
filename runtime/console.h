// SPDX-License-Identifier: Apache-2.0
// Host-side pseudo-terminals and the caller's own terminal.
#pragma once

#include <sys/ioctl.h>
#include <termios.h>

#include <optional>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::runtime {

// A pair whose slave passes every byte as it is: line editing and echo happen in the guest's pty.
struct Pty {
  UniqueFd master;
  UniqueFd slave;
};
Result<Pty> open_pty(std::optional<winsize> size);

// Makes `slave` the controlling terminal of this session's leader, so that SIGWINCH arrives here
// when the master's owner resizes it.
Result<void> take_terminal(int slave);

// What --console-socket asks for: one message with the master's descriptor, as runc sends it.
Result<void> send_master(int socket, int master);
Result<UniqueFd> receive_master(int socket);

std::optional<winsize> window_size(int terminal);
void copy_window_size(int from_terminal, int to_terminal);

// Puts a terminal into raw mode until destroyed. Does nothing for what is no terminal.
class RawMode {
 public:
  explicit RawMode(int terminal);
  ~RawMode();
  RawMode(const RawMode&) = delete;
  RawMode& operator=(const RawMode&) = delete;

 private:
  int terminal_;
  std::optional<termios> before_;
};

}  // namespace kiln::runtime
