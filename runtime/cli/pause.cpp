// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "runtime/cli/command.h"
#include "runtime/control_client.h"

namespace kiln::runtime {
namespace {

constexpr int64_t kAnswerTimeoutMs = 40'000;

Result<void> freeze(const Globals& globals, const std::string& id, bool pause) {
  const ContainerDir dir = TRY(open_container(globals, id));
  const ContainerRecord record = TRY(dir.current_record());
  const std::string& status = record.state.status;
  if (pause && status != "running" && status != "created")
    return make_error(ErrorKind::kFailedPrecondition, "container not running");
  if (!pause && status != "paused")
    return make_error(ErrorKind::kFailedPrecondition, "container not paused");
  TRY(call_monitor(dir, pause ? "pause" : "resume", Json::object(), kAnswerTimeoutMs));
  return {};
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
