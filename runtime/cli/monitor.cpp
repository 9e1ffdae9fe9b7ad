// SPDX-License-Identifier: Apache-2.0
// Internal: what create starts. Its arguments are for people who read process lists.
#include "runtime/monitor.h"

#include <fcntl.h>

#include <CLI/CLI.hpp>

#include "runtime/cli/command.h"
#include "runtime/plan.h"

namespace kiln::runtime {

void add_monitor(CLI::App& app, Globals& globals) {
  CLI::App* command = app.add_subcommand("monitor", "");
  command->group("");  // hidden
  const auto id = std::make_shared<std::string>();
  command->add_option("container-id", *id)->required();
  command->callback([&globals] {
    if (fcntl(kSyncFd, F_GETFD) < 0 || fcntl(kDirFd, F_GETFD) < 0) {
      globals.exit_code = report(
          globals, Result<void>(invalid_argument("monitor is for kiln create, not for people")));
      return;
    }
    globals.exit_code = run_monitor();
  });
}

}  // namespace kiln::runtime
