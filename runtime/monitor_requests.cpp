// SPDX-License-Identifier: Apache-2.0
// What the commands ask of the monitor over control.sock.
#include <csignal>

#include <nlohmann/json.hpp>

#include "base/format.h"
#include "base/log.h"
#include "base/process.h"
#include "oci/parse.h"
#include "runtime/monitor_impl.h"

namespace kiln::runtime {
namespace {

constexpr int64_t kAnswerTimeoutMs = 30'000;
// Before a SIGKILL is carried out on the machine itself.
constexpr int64_t kSignalAnswerMs = 5000;
constexpr int64_t kKillGraceMs = 15'000;
constexpr int64_t kDestroyGraceMs = 3000;
constexpr int64_t kSettledMs = 1000;
// runtime-spec 1.2 runtime.md#start: startContainer hooks run within it, and may take their time.
constexpr int64_t kNoTimeout = 0;

tl::unexpected<Error> not_running() {
  return make_error(ErrorKind::kFailedPrecondition, "container not running");
}

}  // namespace

void Monitor::handle_request(ControlServer::ConnectionId connection,
                             const protocol::Request& request, const Reply& reply) {
  const std::string& method = request.method;
  shrink_later();
  if (ending() && method != "destroy") return reply(not_running());
  try {
    if (members_ && members_->handle(connection, request, reply)) return;
    if (pod_ && handle_pod_request(request, reply)) return;
    if (method == "start") return handle_start(request.params, reply);
    if (method == "kill") return handle_kill(request.params, reply);
    if (method == "destroy") return handle_destroy(reply);
    if (method == "exec") return handle_exec(connection, request.params, reply);
    if (method == "opened") {
      exec_is_open(request.params.at("process_id").get<std::string>());
      return reply(Json::object());
    }
    if (method == "resize") return handle_resize(request.params, reply);
    if (method == "pause") return handle_freeze(true, reply);
    if (method == "resume") return handle_freeze(false, reply);
    if (method == "close_stdin") {
      if (io_) io_->close_stdin();
      return reply(Json::object());
    }
    if (method == "ps") return handle_processes(reply);
    if (method == "update") return handle_update(request.params, reply);
    if (method == "stats") return handle_stats(reply);
    if (method == "network") return handle_network(request.params, reply);
    if (method == "events") {
      watchers_.push_back(connection);
      return reply(Json::object());
    }
    reply(make_error(ErrorKind::kUnimplemented, fmt::format("no such request: `{}`", method)));
  } catch (const Json::exception& error) {
    reply(invalid_argument(fmt::format("bad request: {}", error.what())));
  }
}

void Monitor::handle_start(const Json& params, Reply reply) {
  if (starting_ || started_)
    return reply(
        make_error(ErrorKind::kFailedPrecondition, "cannot start an already running container"));
  starting_ = true;
  if (notify_ && params.at("await_ready").get<bool>()) {
    reply = [this, answer = std::move(reply)](Result<Json> done) {
      if (!done || notify_->ready() || ending()) return answer(std::move(done));
      awaiting_ready_ = [answer, done] { answer(done); };
    };
  }
  // What an engine has put into the network namespace between create and start.
  update_network([this, reply] { start_process(reply); });
}

void Monitor::start_process(const Reply& reply) {
  if (pod_) return process_started(reply);
  const protocol::ContainerRequest request{record_.state.id};
  sandbox_->agent()->request("start", protocol::to_json(request), kNoTimeout,
                             [this, reply](Result<Json> done) {
                               if (!done) {
                                 reply(tl::unexpected(std::move(done.error())));
                                 start_is_over();
                                 // As runc: a container whose process cannot be executed is over.
                                 return expect_end(kDestroyGraceMs);
                               }
                               process_started(reply);
                             });
}

void Monitor::process_started(const Reply& reply) {
  started_ = true;
  note_stage("container started");
  // A short process may have ended already.
  if (!ending()) {
    if (auto saved = save_status("running"); !saved) log_error("{}", saved.error().message);
  }
  run_poststart(reply);
}

// runtime-spec 1.2 runtime.md#lifecycle step 10: failures are warnings, which the command prints.
void Monitor::run_poststart(const Reply& reply) {
  if (poststart_.empty()) {
    reply(Json{{"warnings", Json::array()}});
    return start_is_over();
  }
  HookList list{"poststart",          std::move(poststart_),  hook_state("running"),
                record_.state.bundle, HookFailure::kContinue, host_network()};
  poststart_.clear();
  hooks_ = HookRunner::start(loop_, std::move(list), [this, reply](std::vector<Error> failures) {
    Json warnings = Json::array();
    for (const Error& failure : failures) warnings.push_back(failure.message);
    reply(Json{{"warnings", std::move(warnings)}});
    start_is_over();
  });
}

void Monitor::start_is_over() {
  starting_ = false;
  // From here on it waits, as a rule for long.
  loop_.add_timer(kSettledMs, release_program_pages);
  // Not in the middle of the agent's or the runner's callback.
  if (drained_) loop_.defer([this] { finish_in_order(); });
}

void Monitor::expect_end(int64_t grace_ms) {
  loop_.add_timer(grace_ms, [this] {
    if (ending()) return;
    log_warning("the guest did not end the container in time: stopping the virtual machine");
    exit_code_ = 128 + SIGKILL;
    finish();
  });
}

void Monitor::signal_container(int signal, bool all, const std::string& process_id,
                               const Reply& reply) {
  if (pod_) {
    signal_pod(signal);
    return reply(Json::object());
  }
  const protocol::SignalRequest request{record_.state.id, process_id, signal, all};
  const bool lethal = signal == SIGKILL && process_id.empty();
  sandbox_->agent()->request(
      "signal", protocol::to_json(request), lethal ? kSignalAnswerMs : kAnswerTimeoutMs,
      [this, reply, lethal](Result<Json> done) {
        // Only SIGKILL promises something that a guest which hangs must not break.
        const bool hangs = !done && done.error().kind == ErrorKind::kDeadlineExceeded;
        if (lethal && hangs && !ending()) {
          expect_end(0);
          return reply(Json::object());
        }
        if (lethal && done) expect_end(kKillGraceMs);
        reply(std::move(done));
      });
}

void Monitor::handle_kill(const Json& params, const Reply& reply) {
  const auto process_id = params.at("process").get<std::string>();
  const int signal = params.at("signal").get<int>();
  if (signal_waiting_exec(process_id, signal, reply)) return;
  signal_container(signal, params.at("all").get<bool>(), process_id, reply);
}

// Unlike a kill it ends within seconds whatever the guest does, and without its output.
void Monitor::handle_destroy(const Reply& reply) {
  reply(Json::object());
  if (ending()) return finish();
  if (pod_) return end_pod(128 + SIGKILL, kDestroyGraceMs);
  const protocol::SignalRequest request{record_.state.id, "", SIGKILL, true};
  sandbox_->agent()->request("signal", protocol::to_json(request), 0, [](const Result<Json>&) {});
  loop_.add_timer(kDestroyGraceMs, [this] {
    if (!ending()) exit_code_ = 128 + SIGKILL;
    finish();
  });
}

void Monitor::handle_resize(const Json& params, const Reply& reply) {
  const protocol::ResizeRequest request{record_.state.id, params.at("process").get<std::string>(),
                                        params.at("rows").get<uint16_t>(),
                                        params.at("columns").get<uint16_t>()};
  sandbox_->agent()->request("resize", protocol::to_json(request), kAnswerTimeoutMs, reply);
}

void Monitor::handle_processes(const Reply& reply) {
  const protocol::ContainerRequest request{record_.state.id};
  sandbox_->agent()->request(
      "processes", protocol::to_json(request), kAnswerTimeoutMs, [reply](Result<Json> done) {
        if (!done) return reply(std::move(done));
        // guest-controlled: checked here, so that the command gets only what the type allows.
        auto processes = protocol::from_json<protocol::ProcessesReply>(*done);
        if (!processes) return reply(tl::unexpected(std::move(processes.error())));
        reply(protocol::to_json(*processes));
      });
}

// The command has checked everything, and takes care of the host's side.
void Monitor::handle_update(const Json& params, const Reply& reply) {
  auto merged = oci::parse_resources(params.at("merged"), "update");
  if (!merged) return reply(tl::unexpected(std::move(merged.error())));
  // A pod's sandbox has no cgroup in the guest.
  if (pod_) return save_resources(*merged, reply);
  const protocol::UpdateRequest request{record_.state.id, params.at("guest")};
  sandbox_->agent()->request("update", protocol::to_json(request), kAnswerTimeoutMs,
                             [this, reply, merged = std::move(*merged)](Result<Json> done) {
                               if (!done) return reply(std::move(done));
                               save_resources(merged, reply);
                             });
}

void Monitor::save_resources(const oci::Resources& merged, const Reply& reply) {
  record_.resources = merged;
  if (!ending()) {
    if (auto saved = save_status(record_.state.status); !saved)
      return reply(tl::unexpected(std::move(saved.error())));
  }
  reply(Json::object());
}

void Monitor::handle_stats(const Reply& reply) {
  const protocol::ContainerRequest request{record_.state.id};
  sandbox_->agent()->request("stats", protocol::to_json(request), kAnswerTimeoutMs,
                             [reply](Result<Json> done) {
                               if (!done) return reply(std::move(done));
                               // guest-controlled: as in handle_processes().
                               auto stats = protocol::from_json<protocol::StatsReply>(*done);
                               if (!stats) return reply(tl::unexpected(std::move(stats.error())));
                               reply(protocol::to_json(*stats));
                             });
}

}  // namespace kiln::runtime
