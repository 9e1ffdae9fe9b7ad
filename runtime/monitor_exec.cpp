// SPDX-License-Identifier: Apache-2.0
// `kiln exec`, `pause` and `resume`, which wait for each other.
#include <algorithm>
#include <csignal>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "runtime/container_exec.h"
#include "runtime/monitor_impl.h"

namespace kiln::runtime {
namespace {

constexpr int64_t kAnswerTimeoutMs = 30'000;
// For an exec that has its process and does not open the streams.
constexpr int64_t kStreamsPatienceMs = 10'000;

}  // namespace

void Monitor::handle_exec(ControlServer::ConnectionId connection, const Json& params,
                          const Reply& reply) {
  protocol::ExecRequest request;
  request.container_id = record_.state.id;
  request.process_id = params.at("process_id").get<std::string>();
  request.process = params.at("process");
  request.stdio.stdin_open = params.at("stdin").get<bool>();
  request.stdio.stdout_open = params.at("stdout").get<bool>();
  request.stdio.stderr_open = params.at("stderr").get<bool>();
  for (const Json& kind : params.at("passed")) {
    const auto passed = static_cast<protocol::Passed>(kind.get<unsigned>());
    if (passed > protocol::Passed::kWriter)
      return reply(invalid_argument("bad request: an unknown kind of descriptor"));
    request.stdio.passed.push_back(passed);
  }
  if (!frozen_) return start_exec({connection, std::move(request), reply});
  if (!params.at("ignore_paused").get<bool>())
    return reply(make_error(ErrorKind::kFailedPrecondition, kExecInPausedContainer));
  // As with runc, whose process would be frozen before its exec.
  std::string id = request.process_id;
  waiting_execs_.emplace(std::move(id), PendingExec{connection, std::move(request), reply});
}

void Monitor::start_exec(const PendingExec& exec) {
  const std::string id = exec.request.process_id;
  // A created container has its namespaces too; runc allows it.
  // Before the request: its exit may be reported in the same breath as its start.
  exec_connections_[id] = exec.connection;
  opening_execs_[id] = exec.connection;
  sandbox_->agent()->request("exec", protocol::to_json(exec.request), kAnswerTimeoutMs,
                             [this, reply = exec.reply, id](Result<Json> done) {
                               if (!done) {
                                 exec_connections_.erase(id);
                                 exec_is_open(id);
                               }
                               reply(std::move(done));
                             });
}

void Monitor::exec_is_open(const std::string& process_id) {
  opening_execs_.erase(process_id);
  if (!opening_execs_.empty()) return;
  for (const auto& freeze : std::exchange(waiting_freezes_, {})) freeze();
}

// False: there is a process, or none at all. Otherwise none yet that could catch or ignore it.
bool Monitor::signal_waiting_exec(const std::string& process_id, int signal, const Reply& reply) {
  constexpr int kLethal[] = {SIGHUP, SIGINT, SIGQUIT, SIGKILL, SIGTERM};
  const auto found = waiting_execs_.find(process_id);
  if (found == waiting_execs_.end()) return false;
  reply(Json::object());
  if (std::find(std::begin(kLethal), std::end(kLethal), signal) == std::end(kLethal)) return true;
  const Reply refuse = std::move(found->second.reply);
  waiting_execs_.erase(found);
  refuse(make_error(ErrorKind::kCancelled, "interrupted while the container was paused"));
  return true;
}

void Monitor::refuse_execs(const Error& reason) {
  for (const auto& [id, exec] : std::exchange(waiting_execs_, {}))
    exec.reply(tl::unexpected(reason));
}

void Monitor::forget_execs_of(ControlServer::ConnectionId connection) {
  std::erase_if(waiting_execs_,
                [&](const auto& item) { return item.second.connection == connection; });
  std::vector<std::string> open;
  for (const auto& [id, owner] : opening_execs_)
    if (owner == connection) open.push_back(id);
  for (const std::string& id : open) exec_is_open(id);
}

void Monitor::handle_freeze(bool freeze, const Reply& reply) {
  if (!freeze || opening_execs_.empty()) return send_freeze(freeze, reply);
  // Its process has been told to start: a machine that stands would let it wait for its streams
  // until its patience ends.
  waiting_freezes_.push_back([this, reply] { send_freeze(true, reply); });
  loop_.add_timer(kStreamsPatienceMs, [this] {
    if (waiting_freezes_.empty()) return;
    opening_execs_.clear();
    for (const auto& waiting : std::exchange(waiting_freezes_, {})) waiting();
  });
}

void Monitor::send_freeze(bool freeze, const Reply& reply) {
  if (ending()) return reply(make_error(ErrorKind::kFailedPrecondition, "container not running"));
  if (freeze) set_frozen(true);
  const protocol::ContainerRequest request{record_.state.id};
  sandbox_->agent()->request(freeze ? "pause" : "resume", protocol::to_json(request),
                             kAnswerTimeoutMs, [this, freeze, reply](Result<Json> done) {
                               const bool frozen = freeze == done.has_value();
                               if (done && !ending()) {
                                 const char* status =
                                     freeze ? "paused" : (started_ ? "running" : "created");
                                 if (auto saved = save_status(status); !saved)
                                   log_error("{}", saved.error().message);
                               }
                               set_frozen(frozen);
                               reply(std::move(done));
                             });
}

void Monitor::set_frozen(bool frozen) {
  if (frozen == frozen_ || ending()) return;
  frozen_ = frozen;
  // Connections that nobody in the guest can take wait in the listener's queue, on the host.
  if (io_) io_->hold_listeners(frozen);
  for (const auto& [id, connection] : exec_connections_)
    control_->send_event(connection, {frozen ? "paused" : "resumed", Json::object()});
  if (frozen) return;
  for (auto& [id, exec] : std::exchange(waiting_execs_, {})) start_exec(exec);
}

}  // namespace kiln::runtime
