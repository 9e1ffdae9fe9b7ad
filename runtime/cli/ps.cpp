// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <ctime>

#include <nlohmann/json.hpp>

#include "agent/protocol/messages.h"
#include "runtime/cli/command.h"
#include "runtime/cli/ps_table.h"
#include "runtime/container_control.h"

namespace kiln::runtime {
namespace {

struct PsFlags {
  std::string format = "table";
  std::vector<std::string> arguments;  // id, then ps's own options
};

Result<void> ps(const Globals& globals, const PsFlags& flags) {
  if (flags.format != "table" && flags.format != "json")
    return invalid_argument("invalid format option");
  TRY(check_words("ps", flags.arguments));
  const ContainerDir dir = TRY(open_container(globals, flags.arguments.front()));
  const protocol::ProcessesReply reply = TRY(container_processes(dir));
  if (flags.format == "json") {
    Json pids;  // null without a process, as runc's
    for (const auto& process : reply.processes) pids.push_back(process.pid);
    std::puts(dump_json(pids).c_str());
  } else {
    const auto columns = TRY(ps_columns({flags.arguments.begin() + 1, flags.arguments.end()}));
    const PsContext context{time(nullptr), reply.memory_kib};
    std::fputs(ps_table(columns, reply.processes, context).c_str(), stdout);
  }
  return {};
}

}  // namespace

void add_ps(const Command& app, Globals& globals) {
  const Command command = app.subcommand(
      "ps", "display a container's processes: kiln ps [OPTIONS] CONTAINER [PS OPTIONS]");
  const auto flags = std::make_shared<PsFlags>();
  command.option("-f,--format", flags->format, "table or json");
  command.take_rest();
  command.on_run([&globals, flags, command] {
    flags->arguments = command.rest();
    globals.exit_code = report(globals, ps(globals, *flags));
  });
}

}  // namespace kiln::runtime
