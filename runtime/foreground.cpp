// SPDX-License-Identifier: Apache-2.0
// `kiln run` in the foreground.
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/event_loop.h"
#include "base/log.h"
#include "base/relay.h"
#include "runtime/console.h"
#include "runtime/container_create.h"
#include "runtime/signals.h"

namespace kiln::runtime {
namespace {

struct TerminalRelays {
  std::unique_ptr<Relay> input;
  std::unique_ptr<Relay> output;
};

Result<TerminalRelays> relay_terminal(EventLoop& loop, int master,
                                      const Relay::DoneCallback& done) {
  std::array<UniqueFd, 4> fds;
  size_t used = 0;
  for (const int fd : {STDIN_FILENO, master, master, STDOUT_FILENO}) {
    fds[used].reset(fcntl(fd, F_DUPFD_CLOEXEC, 3));
    if (!fds[used++]) return sys_error("duplicate a terminal");
  }
  // Ours alone, unlike the caller's terminal.
  if (fcntl(master, F_SETFL, O_RDWR | O_NONBLOCK) != 0) return sys_error("set a terminal's flags");
  TerminalRelays relays;
  relays.input = TRY(Relay::create(loop, std::move(fds[0]), std::move(fds[1]), [] {}));
  relays.output = TRY(Relay::create(loop, std::move(fds[2]), std::move(fds[3]), done));
  return relays;
}

}  // namespace

Result<int> attend_container(const CreatedContainer& container, UniqueFd master) {
  const auto loop = TRY(EventLoop::create());
  const int monitor = container.monitor.pidfd.get();
  const bool own_terminal = master && isatty(STDIN_FILENO) == 1;
  TRY(loop->handle_signals(forwarded_signals(), [&](const ::signalfd_siginfo& info) {
    if (info.ssi_signo == SIGWINCH && master) return copy_window_size(STDIN_FILENO, master.get());
    syscall(SYS_pidfd_send_signal, monitor, static_cast<int>(info.ssi_signo), nullptr, 0);
  }));
  std::optional<RawMode> raw;
  TerminalRelays relays;
  bool output_done = !master;
  bool ended = false;
  if (master) {
    if (own_terminal) {
      copy_window_size(STDIN_FILENO, master.get());
      raw.emplace(STDIN_FILENO);
    }
    relays = TRY(relay_terminal(*loop, master.get(), [&output_done] { output_done = true; }));
  }
  TRY(loop->add_fd(monitor, EPOLLIN, [&](uint32_t) {
    ended = true;
    loop->remove_fd(monitor);
  }));
  if (auto started = start_container(container.dir, false); !started) {
    syscall(SYS_pidfd_send_signal, monitor, SIGKILL, nullptr, 0);
    return tl::unexpected(std::move(started.error()));
  }
  // The pty's other side is the monitor's: its end is the end of the output.
  while (!ended || !output_done) TRY(loop->run_once(-1));
  raw.reset();
  const auto status = TRY(wait_child(container.monitor));
  // With --log the monitor has said it there.
  const auto record = container.dir.read_record();
  if (record && record->oom_killed && log_fd() == STDERR_FILENO)
    log_warning("a process was killed, out of memory (OOM)");
  return status->shell_code();
}

}  // namespace kiln::runtime
