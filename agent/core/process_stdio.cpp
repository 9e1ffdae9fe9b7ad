// SPDX-License-Identifier: Apache-2.0
#include "agent/core/process_stdio.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <termios.h>

#include <array>

#include "base/format.h"

namespace kiln::agent {
namespace {

// Fewer, larger vsock packets for a process that writes faster than we are scheduled.
constexpr int kPipeBytes = 1 << 20;

Result<void> set_nonblocking(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0)
    return sys_error("make a stream non-blocking");
  return {};
}

Result<void> make_pipe(UniqueFd& read_end, UniqueFd& write_end, bool we_read) {
  std::array<int, 2> fds{};
  if (pipe2(fds.data(), O_CLOEXEC) != 0) return sys_error("create a pipe");
  read_end.reset(fds[0]);
  write_end.reset(fds[1]);
  // Only a matter of speed: without CAP_SYS_RESOURCE the limit may be lower.
  static_cast<void>(fcntl(fds[0], F_SETPIPE_SZ, kPipeBytes));
  return set_nonblocking(we_read ? fds[0] : fds[1]);
}

Result<UniqueFd> duplicate(const UniqueFd& fd) {
  UniqueFd copy(fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
  if (!copy) return sys_error("duplicate a terminal");
  return copy;
}

}  // namespace

Result<ProcessStdio> ProcessStdio::create(const protocol::StdioRequest& wanted, bool terminal,
                                          ProcessFds& theirs) {
  ProcessStdio ours;
  ours.passed_ = TRY(PassedFds::create(wanted.passed, theirs.passed));
  if (terminal) return ours;
  ours.had_stdin_ = wanted.stdin_open;
  ours.had_stdout_ = wanted.stdout_open;
  ours.had_stderr_ = wanted.stderr_open;
  if (wanted.stdin_open) TRY(make_pipe(theirs.stdin_fd, ours.stdin_, false));
  if (wanted.stdout_open) TRY(make_pipe(ours.stdout_, theirs.stdout_fd, true));
  if (wanted.stderr_open) TRY(make_pipe(ours.stderr_, theirs.stderr_fd, true));
  return ours;
}

Result<void> ProcessStdio::set_terminal(UniqueFd master) {
  TRY(set_nonblocking(master.get()));
  terminal_ = std::move(master);
  had_terminal_ = true;
  terminal_taken_ = false;
  return {};
}

Result<void> ProcessStdio::resize(uint16_t rows, uint16_t columns) {
  if (!terminal_) return make_error(ErrorKind::kFailedPrecondition, "the process has no terminal");
  winsize size{};
  size.ws_row = rows;
  size.ws_col = columns;
  if (ioctl(terminal_.get(), TIOCSWINSZ, &size) != 0) return sys_error("set a terminal's size");
  return {};
}

Result<StreamEnds> ProcessStdio::take(const std::string& stream) {
  if (const auto index = protocol::passed_index(stream)) return passed_.take(*index);
  StreamEnds ends;
  bool had = false;
  if (stream == "stdin") {
    had = had_stdin_;
    ends.to_process = std::move(stdin_);
  } else if (stream == "stdout") {
    had = had_stdout_;
    ends.from_process = std::move(stdout_);
  } else if (stream == "stderr") {
    had = had_stderr_;
    ends.from_process = std::move(stderr_);
  } else if (stream == "tty") {
    had = had_terminal_;
    if (!terminal_taken_) {
      ends.to_process = TRY(duplicate(terminal_));
      ends.from_process = TRY(duplicate(terminal_));
      terminal_taken_ = true;
    }
  }
  if (!had)
    return make_error(ErrorKind::kNotFound, fmt::format("the process has no stream `{}`", stream));
  if (!ends.to_process && !ends.from_process)
    return make_error(ErrorKind::kAlreadyExists, fmt::format("`{}` is connected already", stream));
  return ends;
}

}  // namespace kiln::agent
