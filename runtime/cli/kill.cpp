// SPDX-License-Identifier: Apache-2.0
#include <csignal>

#include <nlohmann/json.hpp>

#include "runtime/cli/command.h"
#include "runtime/control_client.h"
#include "runtime/signals.h"

namespace kiln::runtime {
namespace {

constexpr int64_t kAnswerTimeoutMs = 40'000;
// The monitor itself gives a guest that hangs 5 s, and then ends it.
constexpr int64_t kKillAnswerTimeoutMs = 12'000;
constexpr int kKillTimeoutMs = 10'000;

struct KillFlags {
  std::string id;
  std::string signal = "SIGTERM";
  bool all = false;
};

Result<void> kill_container(const Globals& globals, const KillFlags& flags) {
  const ContainerDir dir = TRY(open_container(globals, flags.id));
  const int signal = TRY(parse_signal(flags.signal));
  const ContainerRecord record = TRY(dir.current_record());
  if (record.state.status == "stopped") {
    // As runc: there is nobody left to be told.
    if (flags.all) return {};
    return make_error(ErrorKind::kFailedPrecondition, "container not running");
  }
  auto answer = call_monitor(dir, "kill", {{"signal", signal}, {"all", flags.all}, {"process", ""}},
                             signal == SIGKILL ? kKillAnswerTimeoutMs : kAnswerTimeoutMs);
  if (answer) return {};
  // It has ended meanwhile.
  if (flags.all && answer.error().kind == ErrorKind::kFailedPrecondition &&
      TRY(dir.current_record()).exit_code)
    return {};
  // SIGKILL does not depend on the monitor's good will either. Its end is the VM's.
  if (signal == SIGKILL && answer.error().kind == ErrorKind::kDeadlineExceeded)
    return kill_process(record.monitor(), kKillTimeoutMs);
  return tl::unexpected(std::move(answer.error()));
}

}  // namespace

void add_kill(const Command& app, Globals& globals) {
  const Command command =
      app.subcommand("kill", "send a signal (default: SIGTERM) to the container's init process");
  const auto flags = std::make_shared<KillFlags>();
  command.option("container-id", flags->id, "the container").required();
  command.option("signal", flags->signal, "name with or without SIG, or number");
  command.flag("-a,--all", flags->all, "send it to all processes inside the container");
  command.on_run(
      [&globals, flags] { globals.exit_code = report(globals, kill_container(globals, *flags)); });
}

}  // namespace kiln::runtime
