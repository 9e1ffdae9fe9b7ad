// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/command.h"
#include "runtime/container_control.h"
#include "runtime/signals.h"

namespace kiln::runtime {
namespace {

struct KillFlags {
  std::string id;
  std::string signal = "SIGTERM";
  bool all = false;
};

Result<void> kill(const Globals& globals, const KillFlags& flags) {
  const ContainerDir dir = TRY(open_container(globals, flags.id));
  return kill_container(dir, TRY(parse_signal(flags.signal)), flags.all);
}

}  // namespace

void add_kill(const Command& app, Globals& globals) {
  const Command command =
      app.subcommand("kill", "send a signal (default: SIGTERM) to the container's init process");
  const auto flags = std::make_shared<KillFlags>();
  command.option("container-id", flags->id, "the container").required();
  command.option("signal", flags->signal, "name with or without SIG, or number");
  command.flag("-a,--all", flags->all, "send it to all processes inside the container");
  command.on_run([&globals, flags] { globals.exit_code = report(globals, kill(globals, *flags)); });
}

}  // namespace kiln::runtime
