// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>

#include "runtime/cli/command.h"
#include "runtime/container_delete.h"

namespace kiln::runtime {

void add_delete(CLI::App& app, Globals& globals) {
  struct Flags {
    std::string id;
    bool force = false;
  };
  CLI::App* command = app.add_subcommand("delete", "delete any resources held by the container");
  const auto flags = std::make_shared<Flags>();
  command->add_option("container-id", flags->id, "the container")->required();
  command->add_flag("-f,--force", flags->force, "kill it if it still runs");
  command->callback([&globals, flags] {
    globals.exit_code = report(globals, delete_container(globals.root, flags->id, flags->force));
  });
}

}  // namespace kiln::runtime
