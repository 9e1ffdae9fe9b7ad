// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include <nlohmann/json.hpp>

#include "runtime/cli/command.h"

namespace kiln::runtime {
namespace {

Result<void> state(const Globals& globals, const std::string& id) {
  const ContainerDir dir = TRY(open_container(globals, id));
  const ContainerRecord record = TRY(dir.current_record());
  Json out = oci::to_json(record.state);
  out["owner"] = record.state.owner;  // runc prints it empty
  std::puts(dump_json(out, 2).c_str());
  return {};
}

}  // namespace

void add_state(const Command& app, Globals& globals) {
  const Command command = app.subcommand("state", "output the state of a container");
  const auto id = std::make_shared<std::string>();
  command.option("container-id", *id, "the container").required();
  command.on_run([&globals, id] { globals.exit_code = report(globals, state(globals, *id)); });
}

}  // namespace kiln::runtime
