// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>

#include "runtime/cli/command.h"
#include "runtime/container_create.h"

namespace kiln::runtime {
namespace {

Result<void> start(const Globals& globals, const std::string& id) {
  const ContainerDir dir = TRY(open_container(globals, id));
  // As runc.
  return start_container(dir, std::getenv("NOTIFY_SOCKET") != nullptr);
}

}  // namespace

void add_start(const Command& app, Globals& globals) {
  const Command command =
      app.subcommand("start", "execute the user defined process in a created container");
  const auto id = std::make_shared<std::string>();
  command.option("container-id", *id, "the container").required();
  command.on_run([&globals, id] { globals.exit_code = report(globals, start(globals, *id)); });
}

}  // namespace kiln::runtime
