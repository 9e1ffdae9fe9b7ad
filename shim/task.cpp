// SPDX-License-Identifier: Apache-2.0
#include "shim/task.h"

#include <sys/epoll.h>

#include <csignal>

#include <nlohmann/json.hpp>

#include "base/format.h"
#include "base/log.h"
#include "runtime/container_control.h"
#include "runtime/container_update.h"
#include "runtime/control_client.h"

namespace kiln::shim {
namespace {

constexpr int64_t kAnswerTimeoutMs = 40'000;
constexpr int64_t kEndMs = 10'000;  // for a machine that is about to end

tl::unexpected<Error> already_finished() {
  return make_error(ErrorKind::kNotFound, "process already finished");
}

tl::unexpected<Error> no_such_exec(const std::string& exec_id) {
  return make_error(ErrorKind::kNotFound, fmt::format("process {}: not found", exec_id));
}

}  // namespace

void Task::create(Done done) {
  if (auto prepared = context_.streaming.prepare(description_.stdio); !prepared)
    return done(std::move(prepared));
  creating_ = true;
  init_.stdio = description_.stdio;
  context_.workers.run<MadeTask>(
      [description = description_] { return make_container(description); },
      [self = shared_from_this(), done = std::move(done)](Result<MadeTask> made) {
        self->made(std::move(made), done);
        self->creating_ = false;
        for (const auto& next : std::exchange(self->after_create_, {})) next();
      });
}

void Task::when_created(std::function<void()> next) {
  if (!creating_) return next();
  after_create_.push_back(std::move(next));
}

void Task::made(Result<MadeTask> made, const Done& done) {
  if (!made) {
    context_.streaming.forget(init_.stdio);
    return done(tl::unexpected(std::move(made.error())));
  }
  root_ = made->root;
  container_ = std::move(made->container);
  stdin_keeper_ = std::move(made->stdin_keeper);
  reap_at_end(context_.loop, std::move(made->logger));
  init_.pid = static_cast<uint32_t>(container_->pid());
  if (auto watched = watch(); !watched) {
    container_->lifeline.reset();  // nobody would hear of its end; containerd has the rest removed
    return done(std::move(watched));
  }
  api::TaskCreate event;
  event.set_container_id(id());
  event.set_bundle(bundle());
  for (const api::Mount& mount : description_.rootfs) *event.add_rootfs() = mount;
  event.mutable_io()->set_stdin(init_.stdio.in);
  event.mutable_io()->set_stdout(init_.stdio.out);
  event.mutable_io()->set_stderr(init_.stdio.err);
  event.mutable_io()->set_terminal(init_.stdio.terminal);
  event.set_pid(init_.pid);
  publish("/tasks/create", "TaskCreate", event);
  done({});
}

Result<void> Task::watch() {
  TRY(context_.loop.add_fd(container_->monitor.pidfd.get(), EPOLLIN,
                           [self = shared_from_this()](uint32_t) { self->monitor_ended(); }));
  runtime::MonitorEvents events;
  events.on_event = [this](const protocol::Event& event) -> Result<void> {
    handle_event(event);
    return {};
  };
  // Not from within its own callback.
  events.on_closed = [this](const Error&) {
    context_.loop.defer([self = shared_from_this()] {
      self->monitor_.reset();
      self->check_ended();
    });
  };
  auto monitor = runtime::connect_monitor(context_.loop, container_->dir, std::move(events));
  // It may have ended already.
  if (!monitor) return {};
  monitor_ = std::move(*monitor);
  monitor_->request("events", Json::object(), kAnswerTimeoutMs, [](const Result<Json>&) {});
  return {};
}

void Task::handle_event(const protocol::Event& event) {
  if (event.name == "oom") tell_oom();
}

void Task::tell_oom() {
  ++oom_kills_;
  api::TaskEvent event;
  event.set_container_id(id());
  publish("/tasks/oom", "TaskOOM", event);
}

void Task::monitor_ended() {
  const auto self = shared_from_this();  // the callback's own goes with remove_fd
  context_.loop.remove_fd(container_->monitor.pidfd.get());
  const auto status = wait_child(container_->monitor, 0);
  code_ = status && *status ? (*status)->shell_code() : 128 + SIGKILL;
  check_ended();
}

void Task::check_ended() {
  if (!code_ || monitor_ || init_.starting || init_.stopped()) return;
  for (const auto& [exec_id, exec] : execs_)
    if (exec.status == api::RUNNING || exec.starting) return;
  end();
}

void Task::end() {
  const auto record = container_->dir.read_record();
  if (record && record->oom_killed && oom_kills_ == 0) tell_oom();
  stdin_keeper_.reset();
  container_->lifeline.reset();
  finish_process(init_, "", *code_);
  finish_removal();
}

void Task::finish_process(Process& process, const std::string& exec_id, int code) {
  process.status = api::STOPPED;
  process.exit_status = static_cast<uint32_t>(code);
  process.exited_at = now();
  api::TaskExit event;
  event.set_container_id(id());
  event.set_id(exec_id.empty() ? id() : exec_id);
  event.set_pid(process.pid);
  event.set_exit_status(process.exit_status);
  *event.mutable_exited_at() = process.exited_at;
  publish("/tasks/exit", "TaskExit", event);
  for (const auto& told : std::exchange(process.waiting, {})) told();
}

Process* Task::find(const std::string& exec_id) {
  if (exec_id.empty()) return &init_;
  const auto found = execs_.find(exec_id);
  return found == execs_.end() ? nullptr : &found->second;
}

void Task::run(std::function<Result<void>(const runtime::ContainerDir&)> job, Done done) {
  struct Nothing {};
  context_.workers.run<Nothing>(
      [root = root_, name = id(), job = std::move(job)]() -> Result<Nothing> {
        TRY(job(TRY(runtime::ContainerDir::open(root, name))));
        return Nothing();
      },
      [self = shared_from_this(), done = std::move(done)](Result<Nothing> outcome) {
        if (!outcome) return done(tl::unexpected(std::move(outcome.error())));
        done({});
      });
}

void Task::start(Done done) {
  if (init_.stopped() || code_)
    return done(
        make_error(ErrorKind::kFailedPrecondition, "cannot start a container that has stopped"));
  if (removing_)
    return done(make_error(ErrorKind::kFailedPrecondition, "cannot start a deleted process"));
  if (init_.status != api::CREATED || init_.starting)
    return done(
        make_error(ErrorKind::kFailedPrecondition, "cannot start an already running container"));
  init_.starting = true;
  run([](const runtime::ContainerDir& dir) { return runtime::start_container(dir, false); },
      [self = shared_from_this(), done = std::move(done)](Result<void> started) {
        self->init_.starting = false;
        if (!started) return self->fail_start(std::move(started.error()), done);
        self->init_.status = api::RUNNING;
        api::TaskStart event;
        event.set_container_id(self->id());
        event.set_pid(self->init_.pid);
        self->publish("/tasks/start", "TaskStart", event);
        done({});
        self->check_ended();
      });
}

// Who hears of it removes the task (nerdctl run --rm), and containerd's client refuses that while
// it is still created: the container's end is told first.
void Task::fail_start(Error error, Done done) {
  at_end([error = std::move(error), done = std::move(done)](bool) { done(tl::unexpected(error)); });
  check_ended();
}

void Task::at_end(std::function<void(bool ended)> tell) {
  const auto once = [tell = std::move(tell), told = std::make_shared<bool>(false)](bool ended) {
    if (!std::exchange(*told, true)) tell(ended);
  };
  const auto timer = context_.loop.add_timer(kEndMs, [once] { once(false); });
  wait("", [self = shared_from_this(), timer, once] {
    self->context_.loop.cancel_timer(timer);
    once(true);
  });
}

void Task::add_exec(const std::string& exec_id, oci::Process process, StdioPaths stdio, Done done) {
  if (execs_.contains(exec_id))
    return done(
        make_error(ErrorKind::kAlreadyExists, fmt::format("id {}: already exists", exec_id)));
  if (auto prepared = context_.streaming.prepare(stdio); !prepared)
    return done(std::move(prepared));
  Process exec;
  process.terminal = stdio.terminal;
  exec.stdio = std::move(stdio);
  exec.exec = std::make_unique<Exec>(context_.loop, exec_id, std::move(process));
  execs_.emplace(exec_id, std::move(exec));
  api::TaskExecAdded event;
  event.set_container_id(id());
  event.set_exec_id(exec_id);
  publish("/tasks/exec-added", "TaskExecAdded", event);
  done({});
}

void Task::start_exec(const std::string& exec_id, Done done) {
  Process* exec = find(exec_id);
  if (exec == nullptr) return done(no_such_exec(exec_id));
  if (exec->status != api::CREATED || exec->starting)
    return done(make_error(ErrorKind::kFailedPrecondition,
                           fmt::format("process {} has been started already", exec_id)));
  if (code_ || init_.stopped())
    return done(make_error(ErrorKind::kFailedPrecondition, "cannot exec in a stopped container"));
  exec->starting = true;
  exec->pid = init_.pid;
  const auto started = [self = shared_from_this(), exec_id, done](Result<void> outcome) {
    Process* process = self->find(exec_id);
    if (process == nullptr) return done(no_such_exec(exec_id));
    process->starting = false;
    if (outcome) {
      process->status = api::RUNNING;
      api::TaskExecStarted event;
      event.set_container_id(self->id());
      event.set_exec_id(exec_id);
      event.set_pid(process->pid);
      self->publish("/tasks/exec-started", "TaskExecStarted", event);
    } else {
      // As with runc: it can be deleted, and that is all.
      process->status = api::STOPPED;
      process->exit_status = 255;
      process->exited_at = now();
      for (const auto& told : std::exchange(process->waiting, {})) told();
    }
    done(std::move(outcome));
    self->check_ended();
  };
  context_.workers.run<OpenStdio>(
      [paths = exec->stdio, space = context_.namespace_name, name = id()] {
        return open_stdio(paths, space, name);
      },
      [self = shared_from_this(), exec_id, started](Result<OpenStdio> stdio) {
        if (!stdio) return started(tl::unexpected(std::move(stdio.error())));
        reap_at_end(self->context_.loop, std::move(stdio->logger));
        Process* process = self->find(exec_id);
        if (process == nullptr) return started({});
        process->exec->start(self->container_->dir, std::move(*stdio), started,
                             [self, exec_id](int code) { self->exec_ended(exec_id, code); });
      });
}

void Task::exec_ended(const std::string& exec_id, int code) {
  Process* exec = find(exec_id);
  if (exec == nullptr) return;
  finish_process(*exec, exec_id, code);
  check_ended();
}

void Task::kill(const std::string& exec_id, int signal, bool all, Done done) {
  Process* process = find(exec_id);
  if (process == nullptr) return done(no_such_exec(exec_id));
  if (process->stopped()) return done(already_finished());
  if (process->exec) return process->exec->kill(signal, std::move(done));
  if (code_) return done(already_finished());
  run([signal,
       all](const runtime::ContainerDir& dir) { return runtime::kill_container(dir, signal, all); },
      [self = shared_from_this(), done = std::move(done)](Result<void> killed) {
        // It has ended meanwhile.
        if (!killed && killed.error().kind == ErrorKind::kFailedPrecondition)
          return done(already_finished());
        // Its monitor ends before it could answer.
        if (!killed && killed.error().kind == ErrorKind::kUnavailable)
          return self->at_end([error = std::move(killed.error()), done](bool ended) {
            done(ended ? already_finished() : tl::unexpected(error));
          });
        done(std::move(killed));
      });
}

void Task::freeze(bool freeze, Done done) {
  run([freeze](const runtime::ContainerDir& dir) { return runtime::freeze_container(dir, freeze); },
      [self = shared_from_this(), freeze, done = std::move(done)](Result<void> outcome) {
        if (outcome && !self->init_.stopped()) {
          self->init_.status = freeze ? api::PAUSED : api::RUNNING;
          api::TaskEvent event;
          event.set_container_id(self->id());
          if (freeze) {
            self->publish("/tasks/paused", "TaskPaused", event);
          } else {
            self->publish("/tasks/resumed", "TaskResumed", event);
          }
        }
        done(std::move(outcome));
      });
}

void Task::resize(const std::string& exec_id, uint16_t rows, uint16_t columns, Done done) {
  Process* process = find(exec_id);
  if (process == nullptr) return done(no_such_exec(exec_id));
  if (process->exec) return process->exec->resize(rows, columns, std::move(done));
  // Of what has ended nobody sees the terminal any more.
  if (!monitor_ || monitor_->closed()) return done({});
  monitor_->request("resize", {{"process", ""}, {"rows", rows}, {"columns", columns}},
                    kAnswerTimeoutMs, [done = std::move(done)](Result<Json> answer) {
                      if (!answer) return done(tl::unexpected(std::move(answer.error())));
                      done({});
                    });
}

Result<void> Task::close_stdin(const std::string& exec_id) {
  Process* process = find(exec_id);
  if (process == nullptr) return no_such_exec(exec_id);
  // A terminal has no end that is not its process's.
  if (process->stdio.terminal) return {};
  if (process->exec) {
    process->exec->close_stdin();
  } else {
    if (monitor_ && !monitor_->closed())
      monitor_->request("close_stdin", Json::object(), kAnswerTimeoutMs,
                        [](const Result<Json>&) {});
  }
  return {};
}

void Task::update(const Json& resources, Done done) {
  run(
      [resources](const runtime::ContainerDir& dir) {
        return runtime::update_container(dir, resources, "update");
      },
      std::move(done));
}

void Task::stats(std::function<void(Result<protocol::StatsReply>)> done) {
  context_.workers.run<protocol::StatsReply>(
      [root = root_, name = id()]() -> Result<protocol::StatsReply> {
        return runtime::container_stats(TRY(runtime::ContainerDir::open(root, name)));
      },
      std::move(done));
}

void Task::wait(const std::string& exec_id, std::function<void()> done) {
  Process* process = find(exec_id);
  if (process == nullptr || process->stopped()) return done();
  process->waiting.push_back(std::move(done));
}

void Task::remove(Done done) {
  const bool runs = init_.starting || init_.status == api::RUNNING || init_.status == api::PAUSED;
  if (runs && !removing_)
    return done(make_error(ErrorKind::kFailedPrecondition, "cannot delete a running process"));
  removals_.push_back(std::move(done));
  if (std::exchange(removing_, true)) return;
  struct Nothing {};
  context_.workers.run<Nothing>(
      [root = root_, name = id(), place = bundle()]() -> Result<Nothing> {
        TRY(remove_container(root, name, place));
        return Nothing();
      },
      [self = shared_from_this()](Result<Nothing> outcome) {
        self->removed_ = outcome ? Result<void>() : tl::unexpected(std::move(outcome.error()));
        self->finish_removal();
      });
}

// A container that was never started ends by its removal, and that end is told first.
void Task::finish_removal() {
  if (!removed_ || (*removed_ && !init_.stopped())) return;
  removing_ = false;
  const Result<void> outcome = *std::exchange(removed_, std::nullopt);
  if (outcome) context_.streaming.forget(init_.stdio);
  for (const Done& done : std::exchange(removals_, {})) done(outcome);
}

void Task::remove_exec(const std::string& exec_id) {
  auto exec = execs_.extract(exec_id);
  if (exec.empty()) return;
  context_.streaming.forget(exec.mapped().stdio);
  for (const auto& told : exec.mapped().waiting) told();
}

}  // namespace kiln::shim
