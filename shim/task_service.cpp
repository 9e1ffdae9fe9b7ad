// SPDX-License-Identifier: Apache-2.0
#include "shim/task_service.h"

#include <unistd.h>

#include <csignal>

#include <nlohmann/json.hpp>

#include "base/format.h"
#include "base/json.h"
#include "oci/parse.h"
#include "runtime/container_dir.h"
#include "shim/stats.h"

namespace kiln::shim {
namespace {

constexpr const char* kServices[] = {"containerd.task.v2.Task", "containerd.task.v3.Task"};
constexpr uint32_t kMaxSignal = 64;
constexpr uint32_t kMaxWindow = 65535;

Task::Done answer_empty(const ttrpc::Server::Reply& reply) {
  return [reply](Result<void> outcome) {
    if (!outcome) return reply(tl::unexpected(std::move(outcome.error())));
    reply(std::string());
  };
}

tl::unexpected<Error> no_such_exec(const std::string& exec_id) {
  return make_error(ErrorKind::kNotFound, fmt::format("process {}: not found", exec_id));
}

}  // namespace

const Call<TaskService> TaskService::kCalls[] = {
    {"State", &TaskService::state},       {"Create", &TaskService::create},
    {"Start", &TaskService::start},       {"Delete", &TaskService::remove},
    {"Pids", &TaskService::pids},         {"Pause", &TaskService::pause},
    {"Resume", &TaskService::resume},     {"Checkpoint", &TaskService::checkpoint},
    {"Kill", &TaskService::kill},         {"Exec", &TaskService::exec},
    {"ResizePty", &TaskService::resize},  {"CloseIO", &TaskService::close_io},
    {"Update", &TaskService::update},     {"Wait", &TaskService::wait},
    {"Stats", &TaskService::stats},       {"Connect", &TaskService::connect},
    {"Shutdown", &TaskService::shutdown},
};

std::vector<ttrpc::Server::Method> TaskService::methods() {
  std::vector<ttrpc::Server::Method> out;
  for (const char* service : kServices) add_calls<TaskService>(this, service, kCalls, out);
  return out;
}

std::shared_ptr<Task> TaskService::find(const std::string& id, const Reply& reply) {
  const auto found = tasks_.find(id);
  if (found != tasks_.end()) return found->second;
  reply(make_error(ErrorKind::kNotFound, fmt::format("container {}: not found", id)));
  return nullptr;
}

void TaskService::with_task(const std::string& id, const Reply& reply,
                            const std::function<void(const std::shared_ptr<Task>&)>& use) {
  const auto task = find(id, reply);
  if (!task) return;
  task->when_created([this, id, reply, use] {
    if (const auto made = find(id, reply)) use(made);
  });
}

void TaskService::create(const Incoming& incoming, const Reply& reply) {
  api::CreateTaskRequest request;
  if (!decode(incoming, reply, request)) return;
  if (const auto checked = runtime::check_container_id(request.id()); !checked)
    return reply(tl::unexpected(checked.error()));
  if (tasks_.contains(request.id()))
    return reply(make_error(ErrorKind::kAlreadyExists,
                            fmt::format("task {}: already exists", request.id())));
  if (!request.checkpoint().empty())
    return reply(
        make_error(ErrorKind::kUnimplemented,
                   "restoring from a checkpoint: a microVM's processes cannot be restored"));
  NewTask description;
  description.id = request.id();
  description.namespace_name = context_.namespace_name;
  description.bundle = request.bundle();
  description.rootfs = {request.rootfs().begin(), request.rootfs().end()};
  description.stdio = {request.stdin(), request.stdout(), request.stderr(), request.terminal()};
  description.sandbox_bundle = context_.sandbox_bundle;
  // With the sandbox API they come with the shim's start.
  description.options = request.options().type_url().empty() ? context_.options : request.options();
  const auto task = std::make_shared<Task>(context_, std::move(description));
  tasks_[request.id()] = task;
  creations_.insert_or_assign(request.id(), reply);
  task->create([this, task, reply](Result<void> created) {
    creations_.erase(task->id());
    if (!created) {
      tasks_.erase(task->id());
      return reply(tl::unexpected(std::move(created.error())));
    }
    api::CreateTaskResponse response;
    response.set_pid(task->init().pid);
    reply(response.SerializeAsString());
  });
}

void TaskService::start(const Incoming& incoming, const Reply& reply) {
  api::ProcessRequest request;
  if (!decode(incoming, reply, request)) return;
  with_task(request.id(), reply, [request, reply](const std::shared_ptr<Task>& task) {
    const auto done = [task, reply](Result<void> started) {
      if (!started) return reply(tl::unexpected(std::move(started.error())));
      api::StartResponse response;
      response.set_pid(task->init().pid);
      reply(response.SerializeAsString());
    };
    if (request.exec_id().empty()) return task->start(done);
    task->start_exec(request.exec_id(), done);
  });
}

void TaskService::answer_deleted(const Process& process, const std::shared_ptr<Task>& task,
                                 bool tell, const Reply& reply) {
  api::DeleteResponse response;
  response.set_pid(process.pid);
  response.set_exit_status(process.exit_status);
  if (process.stopped()) *response.mutable_exited_at() = process.exited_at;
  if (tell) {
    api::TaskDelete event;
    event.set_container_id(task->id());
    event.set_pid(process.pid);
    event.set_exit_status(process.exit_status);
    *event.mutable_exited_at() = process.exited_at;
    context_.publisher.publish("/tasks/delete", "TaskDelete", event);
  }
  reply(response.SerializeAsString());
}

void TaskService::remove(const Incoming& incoming, const Reply& reply) {
  api::ProcessRequest request;
  if (!decode(incoming, reply, request)) return;
  with_task(request.id(), reply, [this, request, reply](const std::shared_ptr<Task>& task) {
    if (!request.exec_id().empty()) return remove_exec(task, request.exec_id(), reply);
    task->remove([this, task, reply](Result<void> removed) {
      if (!removed) return reply(tl::unexpected(std::move(removed.error())));
      // Of two that ask at the same time, the first is told.
      answer_deleted(task->init(), task, tasks_.erase(task->id()) > 0, reply);
    });
  });
}

void TaskService::remove_exec(const std::shared_ptr<Task>& task, const std::string& exec_id,
                              const Reply& reply) {
  const Process* process = task->find(exec_id);
  if (process == nullptr) return reply(no_such_exec(exec_id));
  if (process->starting || process->status == api::RUNNING)
    return reply(make_error(ErrorKind::kFailedPrecondition, "cannot delete a running process"));
  answer_deleted(*process, task, false, reply);
  task->remove_exec(exec_id);
}

void TaskService::state(const Incoming& incoming, const Reply& reply) {
  api::ProcessRequest request;
  if (!decode(incoming, reply, request)) return;
  const auto task = find(request.id(), reply);
  if (!task) return;
  // As runc's shim: containerd's restart monitor kills what is created and does not run, and a
  // machine boots for longer than it waits. A containerd that has come anew is to know of it.
  const auto creation = creations_.find(request.id());
  if (creation != creations_.end() && creation->second.wanted())
    return reply(make_error(ErrorKind::kNotFound,
                            fmt::format("container {}: not created yet", request.id())));
  const Process* process = task->find(request.exec_id());
  if (process == nullptr) return reply(no_such_exec(request.exec_id()));
  api::StateResponse response;
  response.set_id(task->id());
  response.set_exec_id(request.exec_id());
  response.set_bundle(task->bundle());
  response.set_pid(process->pid);
  response.set_status(process->status);
  response.set_stdin(process->stdio.in);
  response.set_stdout(process->stdio.out);
  response.set_stderr(process->stdio.err);
  response.set_terminal(process->stdio.terminal);
  response.set_exit_status(process->exit_status);
  if (process->stopped()) *response.mutable_exited_at() = process->exited_at;
  reply(response.SerializeAsString());
}

// The guest's processes have numbers of its own, which mean nothing here: one process of the host
// stands for them all.
void TaskService::pids(const Incoming& incoming, const Reply& reply) {
  api::TaskRequest request;
  if (!decode(incoming, reply, request)) return;
  const auto task = find(request.id(), reply);
  if (!task) return;
  api::PidsResponse response;
  if (!task->init().stopped() && task->init().pid != 0)
    response.add_processes()->set_pid(task->init().pid);
  reply(response.SerializeAsString());
}

void TaskService::freeze(const Incoming& incoming, const Reply& reply, bool freeze) {
  api::TaskRequest request;
  if (!decode(incoming, reply, request)) return;
  with_task(request.id(), reply, [freeze, reply](const std::shared_ptr<Task>& task) {
    task->freeze(freeze, answer_empty(reply));
  });
}

void TaskService::pause(const Incoming& incoming, const Reply& reply) {
  freeze(incoming, reply, true);
}

void TaskService::resume(const Incoming& incoming, const Reply& reply) {
  freeze(incoming, reply, false);
}

void TaskService::checkpoint(const Incoming&, const Reply& reply) {
  reply(make_error(ErrorKind::kUnimplemented,
                   "checkpoint: the processes of a microVM cannot be checkpointed"));
}

void TaskService::kill(const Incoming& incoming, const Reply& reply) {
  api::KillRequest request;
  if (!decode(incoming, reply, request)) return;
  if (request.signal() > kMaxSignal)
    return reply(invalid_argument(fmt::format("signal {}: there is none", request.signal())));
  with_task(request.id(), reply, [request, reply](const std::shared_ptr<Task>& task) {
    task->kill(request.exec_id(), static_cast<int>(request.signal()), request.all(),
               answer_empty(reply));
  });
}

void TaskService::exec(const Incoming& incoming, const Reply& reply) {
  api::ExecProcessRequest request;
  if (!decode(incoming, reply, request)) return;
  if (const auto checked = runtime::check_container_id(request.exec_id()); !checked)
    return reply(tl::unexpected(checked.error()));
  const auto json = parse_json(request.spec().value());
  if (!json) return reply(tl::unexpected(json.error()));
  auto process = oci::parse_process(*json, "exec");
  if (!process) return reply(tl::unexpected(std::move(process.error())));
  with_task(request.id(), reply,
            [request, reply, process = std::move(*process)](const std::shared_ptr<Task>& task) {
              task->add_exec(
                  request.exec_id(), process,
                  {request.stdin(), request.stdout(), request.stderr(), request.terminal()},
                  answer_empty(reply));
            });
}

void TaskService::resize(const Incoming& incoming, const Reply& reply) {
  api::ResizePtyRequest request;
  if (!decode(incoming, reply, request)) return;
  if (request.width() > kMaxWindow || request.height() > kMaxWindow)
    return reply(invalid_argument("no terminal is that large"));
  with_task(request.id(), reply, [request, reply](const std::shared_ptr<Task>& task) {
    task->resize(request.exec_id(), static_cast<uint16_t>(request.height()),
                 static_cast<uint16_t>(request.width()), answer_empty(reply));
  });
}

void TaskService::close_io(const Incoming& incoming, const Reply& reply) {
  api::CloseIORequest request;
  if (!decode(incoming, reply, request)) return;
  with_task(request.id(), reply, [request, reply](const std::shared_ptr<Task>& task) {
    answer_empty(reply)(request.stdin() ? task->close_stdin(request.exec_id()) : Result<void>());
  });
}

void TaskService::update(const Incoming& incoming, const Reply& reply) {
  api::UpdateTaskRequest request;
  if (!decode(incoming, reply, request)) return;
  auto json = parse_json(request.resources().value());
  if (!json) return reply(tl::unexpected(std::move(json.error())));
  with_task(request.id(), reply,
            [json = std::move(*json), reply](const std::shared_ptr<Task>& task) {
              task->update(json, answer_empty(reply));
            });
}

void TaskService::wait(const Incoming& incoming, const Reply& reply) {
  api::ProcessRequest request;
  if (!decode(incoming, reply, request)) return;
  with_task(request.id(), reply, [request, reply](const std::shared_ptr<Task>& task) {
    if (task->find(request.exec_id()) == nullptr) return reply(no_such_exec(request.exec_id()));
    task->wait(request.exec_id(), [task, reply, exec_id = request.exec_id()] {
      const Process* process = task->find(exec_id);
      if (process == nullptr) return reply(no_such_exec(exec_id));
      api::WaitResponse response;
      response.set_exit_status(process->exit_status);
      *response.mutable_exited_at() = process->exited_at;
      reply(response.SerializeAsString());
    });
  });
}

void TaskService::stats(const Incoming& incoming, const Reply& reply) {
  api::TaskRequest request;
  if (!decode(incoming, reply, request)) return;
  with_task(request.id(), reply, [this, reply](const std::shared_ptr<Task>& task) {
    task->stats([this, task, reply](Result<protocol::StatsReply> stats) {
      if (!stats) return reply(tl::unexpected(std::move(stats.error())));
      api::StatsResponse response;
      *response.mutable_stats() = encode_stats(*stats, context_.unified_cgroups, task->oom_kills());
      reply(response.SerializeAsString());
    });
  });
}

void TaskService::connect(const Incoming& incoming, const Reply& reply) {
  api::TaskRequest request;
  if (!decode(incoming, reply, request)) return;
  api::ConnectResponse response;
  response.set_shim_pid(static_cast<uint32_t>(getpid()));
  if (const auto found = tasks_.find(request.id()); found != tasks_.end())
    response.set_task_pid(found->second->init().pid);
  response.set_version(KILN_VERSION);
  reply(response.SerializeAsString());
}

// containerd asks after each task's end; while others are here it is refused without a word, as by
// runc's shim.
void TaskService::shutdown(const Incoming&, const Reply& reply) {
  reply(std::string());
  if (tasks_.empty()) on_shutdown_();
}

}  // namespace kiln::shim
