// SPDX-License-Identifier: Apache-2.0
#include "runtime/container_control.h"

#include <csignal>

#include <nlohmann/json.hpp>

#include "runtime/control_client.h"

namespace kiln::runtime {
namespace {

constexpr int64_t kAnswerTimeoutMs = 40'000;
// The monitor itself gives a guest that hangs 5 s, and then ends it.
constexpr int64_t kKillAnswerTimeoutMs = 12'000;
constexpr int kKillTimeoutMs = 10'000;

}  // namespace

Result<void> kill_container(const ContainerDir& dir, int signal, bool all) {
  const ContainerRecord record = TRY(dir.current_record());
  if (record.state.status == "stopped") {
    // As runc: there is nobody left to be told.
    if (all) return {};
    return make_error(ErrorKind::kFailedPrecondition, "container not running");
  }
  auto answer = call_monitor(dir, "kill", {{"signal", signal}, {"all", all}, {"process", ""}},
                             signal == SIGKILL ? kKillAnswerTimeoutMs : kAnswerTimeoutMs);
  if (answer) return {};
  // It has ended meanwhile.
  if (all && answer.error().kind == ErrorKind::kFailedPrecondition &&
      TRY(dir.current_record()).exit_code)
    return {};
  // SIGKILL does not depend on the monitor's good will either. Its end is the VM's.
  if (signal == SIGKILL && answer.error().kind == ErrorKind::kDeadlineExceeded)
    return kill_process(record.monitor(), kKillTimeoutMs);
  return tl::unexpected(std::move(answer.error()));
}

Result<void> freeze_container(const ContainerDir& dir, bool freeze) {
  const ContainerRecord record = TRY(dir.current_record());
  const std::string& status = record.state.status;
  if (freeze && status != "running" && status != "created")
    return make_error(ErrorKind::kFailedPrecondition, "container not running");
  if (!freeze && status != "paused")
    return make_error(ErrorKind::kFailedPrecondition, "container not paused");
  TRY(call_monitor(dir, freeze ? "pause" : "resume", Json::object(), kAnswerTimeoutMs));
  return {};
}

Result<protocol::ProcessesReply> container_processes(const ContainerDir& dir) {
  const ContainerRecord record = TRY(dir.current_record());
  if (record.state.status == "stopped") return protocol::ProcessesReply();
  const auto answer = call_monitor(dir, "ps", Json::object(), kAnswerTimeoutMs);
  if (!answer && TRY(dir.current_record()).exit_code) return protocol::ProcessesReply();
  return protocol::from_json<protocol::ProcessesReply>(TRY(answer));
}

Result<protocol::StatsReply> container_stats(const ContainerDir& dir) {
  const Json answer = TRY(call_monitor(dir, "stats", Json::object(), kAnswerTimeoutMs));
  return protocol::from_json<protocol::StatsReply>(answer);
}

}  // namespace kiln::runtime
