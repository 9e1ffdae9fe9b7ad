// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/command.h"
#include "runtime/container_control.h"

namespace kiln::runtime {
namespace {

Result<void> freeze(const Globals& globals, const std::string& id, bool pause) {
  return freeze_container(TRY(open_container(globals, id)), pause);
}

void add_freezer(const Command& app, Globals& globals, bool pause) {
  const Command command =
      pause ? app.subcommand("pause", "suspend all processes inside the container")
            : app.subcommand("resume", "resume all processes that have been paused");
  const auto id = std::make_shared<std::string>();
  command.option("container-id", *id, "the container").required();
  command.on_run(
      [&globals, id, pause] { globals.exit_code = report(globals, freeze(globals, *id, pause)); });
}

}  // namespace

void add_pause(const Command& app, Globals& globals) {
  add_freezer(app, globals, true);
  add_freezer(app, globals, false);
}

}  // namespace kiln::runtime
