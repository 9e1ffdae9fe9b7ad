// SPDX-License-Identifier: Apache-2.0
#include "oci/version.h"

#include <cstdio>

#include <CLI/CLI.hpp>

#include "runtime/cli/command.h"

namespace kiln::runtime {

void add_version(CLI::App& app, Globals& globals) {
  CLI::App* command = app.add_subcommand("version", "print the version");
  command->callback([&globals, &app] {
    std::puts(app.version().c_str());
    globals.exit_code = 0;
  });
}

}  // namespace kiln::runtime
