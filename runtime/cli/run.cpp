// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include "base/unix_socket.h"
#include "runtime/cli/bundle.h"
#include "runtime/console.h"

namespace kiln::runtime {
namespace {

struct RunFlags : CreateFlags {
  bool detach = false;
  bool keep = false;
  bool no_subreaper = false;
};

// runc's rules for where the terminal's master goes.
Result<UniqueFd> choose_console(const RunFlags& flags, bool terminal, NewContainer& container) {
  if (!terminal && !flags.console_socket.empty())
    return invalid_argument("cannot use console socket if kiln will not detach or allocate tty");
  if (terminal && flags.detach && flags.console_socket.empty())
    return invalid_argument(
        "cannot allocate tty if kiln will detach without setting console socket");
  if (!terminal) return UniqueFd();
  if (!flags.console_socket.empty()) {
    container.console = TRY(connect_unix(flags.console_socket));
    return UniqueFd();
  }
  auto [here, there] = TRY(socket_pair(SOCK_STREAM));
  container.console = std::move(there);
  return std::move(here);
}

Result<int> run(const Globals& globals, const RunFlags& flags) {
  NewContainer container = TRY(prepare_container(globals, flags));
  const UniqueFd console =
      TRY(choose_console(flags, container.plan.spec.process->terminal, container));
  const bool awaits_ready = !container.plan.notify_socket.empty();
  // Who stays is who the service manager has started.
  if (!flags.detach) container.plan.notify_pid = getpid();
  const UniqueFd pidfd_socket = TRY(connect_pidfd_socket(flags));
  CreatedContainer created = TRY(create_container(std::move(container)));
  TRY(announce_container(globals, flags, pidfd_socket, created));
  if (flags.detach) {
    if (auto started = start_container(created.dir, awaits_ready); !started) {
      remove_quietly(globals, flags.id);
      return tl::unexpected(std::move(started.error()));
    }
    return 0;
  }
  UniqueFd master;
  if (console) master = TRY(receive_master(console.get()));
  auto code = attend_container(created, std::move(master));
  if (!flags.keep || !code) remove_quietly(globals, flags.id);
  return code;
}

}  // namespace

void add_run(const Command& app, Globals& globals) {
  const Command command = app.subcommand("run", "create and run a container");
  const auto flags = std::make_shared<RunFlags>();
  add_create_flags(command, *flags);
  command.flag("-d,--detach", flags->detach, "detach from the container's process");
  command.flag("--keep", flags->keep, "do not delete the container after it exits");
  command.flag("--no-subreaper", flags->no_subreaper, "accepted; nothing is reparented here");
  command.on_run([&globals, flags] { globals.exit_code = report(globals, run(globals, *flags)); });
}

}  // namespace kiln::runtime
