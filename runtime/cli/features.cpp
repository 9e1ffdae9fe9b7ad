// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include <nlohmann/json.hpp>

#include "runtime/cli/command.h"
#include "runtime/features.h"

namespace kiln::runtime {

void add_features(const Command& app, Globals& globals) {
  const Command command = app.subcommand("features", "show the enabled features");
  command.on_run([&globals] {
    std::puts(dump_json(runtime_features(), 4).c_str());
    globals.exit_code = 0;
  });
}

}  // namespace kiln::runtime
