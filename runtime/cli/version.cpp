// SPDX-License-Identifier: Apache-2.0
#include "oci/version.h"

#include <cstdio>

#include "runtime/cli/command.h"

namespace kiln::runtime {

void add_version(const Command& app, Globals& globals) {
  const Command command = app.subcommand("version", "print the version");
  command.on_run([&globals, app] {
    std::puts(app.version().c_str());
    globals.exit_code = 0;
  });
}

}  // namespace kiln::runtime
