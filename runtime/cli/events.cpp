// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include <nlohmann/json.hpp>

#include "base/event_loop.h"
#include "base/format.h"
#include "base/log.h"
#include "runtime/cli/command.h"
#include "runtime/cli/events_json.h"
#include "runtime/cli/flag_values.h"
#include "runtime/control_client.h"

namespace kiln::runtime {
namespace {

constexpr int64_t kAnswerTimeoutMs = 40'000;

struct EventsFlags {
  std::string id;
  std::string interval = "5s";
  bool stats = false;
};

void print(const Json& event) {
  std::puts(dump_json(event).c_str());
  std::fflush(stdout);
}

Result<void> print_stats(const std::string& id, const Result<Json>& answer) {
  const Json json = TRY(Result<Json>(answer));
  const auto stats = TRY(protocol::from_json<protocol::StatsReply>(json));
  print({{"type", "stats"}, {"id", id}, {"data", stats_event_data(stats)}});
  return {};
}

// Until the monitor's end, which is the container's. One thread, one loop.
class Watch {
 public:
  Watch(EventLoop& loop, std::string id, int64_t interval_ms)
      : loop_(loop), id_(std::move(id)), interval_ms_(interval_ms) {}

  Result<void> run(const ContainerDir& dir) {
    MonitorEvents events;
    events.on_event = [this](const protocol::Event& event) -> Result<void> {
      if (event.name == "oom") print({{"type", "oom"}, {"id", id_}});
      return {};
    };
    events.on_closed = [this](const Error&) { ended_ = true; };
    monitor_ = TRY(connect_monitor(loop_, dir, std::move(events)));
    TRY(monitor_->call("events", Json::object(), kAnswerTimeoutMs));
    schedule();
    while (!ended_) TRY(loop_.run_once(-1));
    return {};
  }

 private:
  void schedule() {
    loop_.add_timer(interval_ms_, [this] { ask(); });
  }
  // One at a time, however slowly the guest answers.
  void ask() {
    if (ended_) return;
    monitor_->request("stats", Json::object(), kAnswerTimeoutMs,
                      [this](const Result<Json>& answer) {
                        if (ended_ || monitor_->closed()) return;
                        // The container is ending; so will the monitor.
                        if (!answer && answer.error().kind == ErrorKind::kFailedPrecondition)
                          return;
                        if (const auto printed = print_stats(id_, answer); !printed)
                          log_error("{}", printed.error().message);
                        schedule();
                      });
  }

  EventLoop& loop_;
  std::string id_;
  int64_t interval_ms_;
  std::unique_ptr<RpcClient> monitor_;
  bool ended_ = false;
};

Result<void> events(const Globals& globals, const EventsFlags& flags) {
  const ContainerDir dir = TRY(open_container(globals, flags.id));
  const int64_t interval_ms = TRY(parse_duration_ms(flags.interval));
  if (interval_ms <= 0) return invalid_argument("duration interval must be greater than 0");
  const ContainerRecord record = TRY(dir.current_record());
  if (record.state.status == "stopped")
    return make_error(ErrorKind::kFailedPrecondition,
                      fmt::format("container with id {} is not running", flags.id));
  if (flags.stats) {
    const Json answer = TRY(call_monitor(dir, "stats", Json::object(), kAnswerTimeoutMs));
    return print_stats(flags.id, answer);
  }
  const auto loop = TRY(EventLoop::create());
  return Watch(*loop, flags.id, interval_ms).run(dir);
}

}  // namespace

void add_events(const Command& app, Globals& globals) {
  const Command command = app.subcommand(
      "events", "display container events such as OOM notifications, cpu, memory, and IO usage");
  const auto flags = std::make_shared<EventsFlags>();
  command.option("container-id", flags->id, "the container").required();
  command.option("--interval", flags->interval, "between two statistics").show_default();
  command.flag("--stats", flags->stats, "display the container's stats then exit");
  command.on_run(
      [&globals, flags] { globals.exit_code = report(globals, events(globals, *flags)); });
}

}  // namespace kiln::runtime
