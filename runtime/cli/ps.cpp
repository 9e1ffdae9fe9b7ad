// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <ctime>

#include <nlohmann/json.hpp>

#include "agent/protocol/messages.h"
#include "base/format.h"
#include "runtime/cli/command.h"
#include "runtime/control_client.h"

namespace kiln::runtime {
namespace {

constexpr int64_t kAnswerTimeoutMs = 40'000;
constexpr time_t kDaySeconds = 24 * 60 * 60;

struct PsFlags {
  std::string format = "table";
  std::vector<std::string> arguments;  // id, then ps's own options
};

// ps(1) STIME: the time of day, or the day when it was not today.
std::string start_time(int64_t unix_seconds) {
  const auto when = static_cast<time_t>(unix_seconds);
  tm parts{};
  if (localtime_r(&when, &parts) == nullptr) return "?";
  std::array<char, 16> text{};
  std::strftime(text.data(), text.size(), time(nullptr) - when < kDaySeconds ? "%H:%M" : "%b%d",
                &parts);
  return text.data();
}

// The columns of `ps -ef`. Users are numbers: names belong to the container's own passwd file.
void print_table(const std::vector<protocol::ProcessInfo>& processes) {
  std::puts("UID          PID    PPID  C STIME TTY          TIME CMD");
  for (const auto& process : processes) {
    const uint64_t seconds = process.cpu_time_ms / 1000;
    std::puts(fmt::format("{:<8} {:>7} {:>7}  0 {:<5} {:<8} {:02}:{:02}:{:02} {}", process.uid,
                          process.pid, process.parent_pid, start_time(process.start_time_unix),
                          process.tty, seconds / 3600, seconds / 60 % 60, seconds % 60,
                          process.command_line)
                  .c_str());
  }
}

Result<void> ps(const Globals& globals, const PsFlags& flags) {
  if (flags.format != "table" && flags.format != "json")
    return invalid_argument("invalid format option");
  if (flags.arguments.empty())
    return invalid_argument("\"ps\" requires a minimum of 1 argument(s)");
  for (size_t i = 1; i < flags.arguments.size(); ++i) {
    // The guest's processes are in no /proc that the host's ps could read.
    if (flags.arguments[i] != "-ef" && flags.arguments[i] != "ef")
      return make_error(
          ErrorKind::kUnimplemented,
          fmt::format("ps option `{}` is not supported, only -ef", flags.arguments[i]));
  }
  const ContainerDir dir = TRY(open_container(globals, flags.arguments.front()));
  const ContainerRecord record = TRY(dir.current_record());
  if (record.state.status == "stopped")
    return make_error(ErrorKind::kFailedPrecondition, "container not running");
  const Json answer = TRY(call_monitor(dir, "ps", Json::object(), kAnswerTimeoutMs));
  const auto reply = TRY(protocol::from_json<protocol::ProcessesReply>(answer));
  if (flags.format == "json") {
    Json pids = Json::array();
    for (const auto& process : reply.processes) pids.push_back(process.pid);
    std::puts(dump_json(pids).c_str());
  } else {
    print_table(reply.processes);
  }
  return {};
}

}  // namespace

void add_ps(const Command& app, Globals& globals) {
  const Command command =
      app.subcommand("ps", "display a container's processes: kiln ps [OPTIONS] CONTAINER");
  const auto flags = std::make_shared<PsFlags>();
  command.option("-f,--format", flags->format, "table or json");
  command.take_rest();
  command.on_run([&globals, flags, command] {
    flags->arguments = command.rest();
    globals.exit_code = report(globals, ps(globals, *flags));
  });
}

}  // namespace kiln::runtime
