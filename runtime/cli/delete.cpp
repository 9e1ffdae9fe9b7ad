// SPDX-License-Identifier: Apache-2.0

#include "runtime/cli/command.h"
#include "runtime/container_delete.h"

namespace kiln::runtime {

void add_delete(const Command& app, Globals& globals) {
  struct Flags {
    std::string id;
    bool force = false;
  };
  const Command command = app.subcommand("delete", "delete any resources held by the container");
  const auto flags = std::make_shared<Flags>();
  command.option("container-id", flags->id, "the container").required();
  command.flag("-f,--force", flags->force, "kill it if it still runs");
  command.on_run([&globals, flags] {
    globals.exit_code = report(globals, delete_container(globals.root, flags->id, flags->force));
  });
}

}  // namespace kiln::runtime
