// SPDX-License-Identifier: Apache-2.0
#include "shim/exec.h"

#include <csignal>

#include <nlohmann/json.hpp>

#include "oci/parse.h"
#include "runtime/control_client.h"

namespace kiln::shim {
namespace {

constexpr int64_t kStartTimeoutMs = 60'000;
constexpr int64_t kAnswerTimeoutMs = 40'000;
// How long a stream may stay silent after the process has ended while something else in the
// container holds it open.
constexpr int64_t kLingerMs = 1000;
constexpr int kKilledCode = 128 + SIGKILL;

}  // namespace

void Exec::start(const runtime::ContainerDir& dir, OpenStdio stdio, Done started,
                 std::function<void(int)> on_exit) {
  started_ = std::move(started);
  on_exit_ = std::move(on_exit);
  stdin_keeper_ = std::move(stdio.stdin_keeper);
  container_ = dir.id();
  if (auto connected = connect(dir); !connected) return fail(std::move(connected.error()));
  ask(std::move(stdio.fds));
}

Result<void> Exec::connect(const runtime::ContainerDir& dir) {
  const runtime::ContainerRecord record = TRY(dir.current_record());
  if (record.state.status == "stopped")
    return make_error(ErrorKind::kFailedPrecondition, "cannot exec in a stopped container");
  if (record.state.status == "paused")
    return make_error(ErrorKind::kFailedPrecondition, "cannot exec in a paused container");
  vsock_path_ =
      record.sandbox.empty() ? dir.vsock_socket() : dir.sibling(record.sandbox) + "/vm/vsock";
  runtime::MonitorEvents events;
  events.on_event = [this](const protocol::Event& event) -> Result<void> {
    if (event.name != "exit") return {};  // paused, resumed: there is no passed listener
    const auto exit = TRY(protocol::from_json<protocol::ExitEvent>(event.params));
    ended(exit.signal != 0 ? 128 + exit.signal : exit.exit_code);
    return {};
  };
  events.on_closed = [this](const Error&) { ended(kKilledCode); };  // the container has ended
  monitor_ = TRY(runtime::connect_monitor(loop_, dir, std::move(events)));
  return {};
}

void Exec::ask(std::array<UniqueFd, 3> fds) {
  protocol::StdioRequest wanted;
  if (!process_.terminal)
    wanted = {static_cast<bool>(fds[0]), static_cast<bool>(fds[1]), static_cast<bool>(fds[2])};
  const auto kept = std::make_shared<std::array<UniqueFd, 3>>(std::move(fds));
  monitor_->request("exec",
                    {{"process_id", id_},
                     {"process", oci::to_json(process_)},
                     {"stdin", wanted.stdin_open},
                     {"stdout", wanted.stdout_open},
                     {"stderr", wanted.stderr_open},
                     {"passed", Json::array()},
                     {"ignore_paused", false}},
                    kStartTimeoutMs, [this, wanted, kept](Result<Json> done) {
                      if (!done) return fail(std::move(done.error()));
                      open_streams(wanted, std::move(*kept));
                    });
}

void Exec::open_streams(const protocol::StdioRequest& wanted, std::array<UniqueFd, 3> fds) {
  io_ = std::make_unique<runtime::ProcessIo>(
      loop_, runtime::ProcessIo::Options{vsock_path_, container_, id_, kStartTimeoutMs});
  if (stdin_closed_) io_->close_stdin();
  const auto on_opened = [this](Result<void> outcome) { opened(std::move(outcome)); };
  if (process_.terminal) {
    io_->open_terminal(std::move(fds[0]), std::move(fds[1]), on_opened);
  } else {
    io_->open_pipes(wanted, std::move(fds), on_opened);
  }
}

void Exec::close_stdin() {
  stdin_closed_ = true;
  if (io_) io_->close_stdin();
}

void Exec::opened(Result<void> outcome) {
  // A container that has just ended takes the streams with it.
  if (!outcome && !code_) return fail(std::move(outcome.error()));
  open_ = true;
  // From now on nothing of ours is lost when the machine stands still.
  if (!monitor_->closed())
    monitor_->request("opened", {{"process_id", id_}}, 0, [](const Result<Json>&) {});
  const auto alive = alive_;
  std::exchange(started_, nullptr)({});
  if (*alive && code_) finish();
}

void Exec::fail(Error error) {
  const auto started = std::exchange(started_, nullptr);
  if (!started) return;
  on_exit_ = nullptr;
  loop_.defer([this, alive = alive_, started, error = std::move(error)] {
    if (*alive) {  // the monitor ends what nobody is connected to
      io_.reset();
      monitor_.reset();
    }
    started(tl::unexpected(error));
  });
}

void Exec::ended(int code) {
  if (code_) return;
  code_ = code;
  if (open_) finish();
}

void Exec::finish() {
  if (!on_exit_) return;
  io_->drain(kLingerMs, [this] {
    const auto on_exit = std::exchange(on_exit_, nullptr);
    // The other ends of its streams close with us; the exit is told after that.
    loop_.defer([this, alive = alive_, on_exit] {
      if (!*alive) return;
      io_.reset();
      on_exit(*code_);
    });
  });
}

void Exec::kill(int signal, Done done) {
  if (!monitor_ || monitor_->closed() || code_)
    return done(make_error(ErrorKind::kNotFound, "process already finished"));
  monitor_->request("kill", {{"signal", signal}, {"all", false}, {"process", id_}},
                    kAnswerTimeoutMs, [done = std::move(done)](Result<Json> answer) {
                      if (!answer) return done(tl::unexpected(std::move(answer.error())));
                      done({});
                    });
}

void Exec::resize(uint16_t rows, uint16_t columns, Done done) {
  if (!monitor_ || monitor_->closed() || code_) return done({});
  monitor_->request("resize", {{"process", id_}, {"rows", rows}, {"columns", columns}},
                    kAnswerTimeoutMs, [done = std::move(done)](Result<Json> answer) {
                      if (!answer) return done(tl::unexpected(std::move(answer.error())));
                      done({});
                    });
}

}  // namespace kiln::shim
