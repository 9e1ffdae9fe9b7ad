// SPDX-License-Identifier: Apache-2.0

#include "base/unix_socket.h"
#include "runtime/cli/bundle.h"

namespace kiln::runtime {
namespace {

Result<void> create(const Globals& globals, const CreateFlags& flags) {
  NewContainer container = TRY(prepare_container(globals, flags));
  const bool terminal = container.plan.spec.process->terminal;
  if (terminal && flags.console_socket.empty())
    return invalid_argument(
        "cannot allocate tty if kiln will detach without setting console socket");
  if (!terminal && !flags.console_socket.empty())
    return invalid_argument("cannot use console socket if kiln will not detach or allocate tty");
  if (terminal) container.console = TRY(connect_unix(flags.console_socket));
  const UniqueFd pidfd_socket = TRY(connect_pidfd_socket(flags));
  const CreatedContainer created = TRY(create_container(std::move(container)));
  return announce_container(globals, flags, pidfd_socket, created);
}

}  // namespace

void add_create(const Command& app, Globals& globals) {
  const Command command = app.subcommand("create", "create a container");
  const auto flags = std::make_shared<CreateFlags>();
  add_create_flags(command, *flags);
  command.on_run(
      [&globals, flags] { globals.exit_code = report(globals, create(globals, *flags)); });
}

}  // namespace kiln::runtime
