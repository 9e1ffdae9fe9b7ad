// SPDX-License-Identifier: Apache-2.0
// containerd.task.v2.Task and v3: the calls, from their messages to tasks and back.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "shim/calls.h"
#include "shim/task.h"
#include "shim/ttrpc/server.h"

namespace kiln::shim {

// Used by the event loop's thread.
class TaskService {
 public:
  // `on_shutdown`: containerd has no more use for us.
  TaskService(ShimContext& context, std::function<void()> on_shutdown)
      : context_(context), on_shutdown_(std::move(on_shutdown)) {}

  std::vector<ttrpc::Server::Method> methods();
  bool empty() const { return tasks_.empty(); }

 private:
  using Incoming = ttrpc::Server::Incoming;
  using Reply = ttrpc::Server::Reply;
  static const Call<TaskService> kCalls[];

  void state(const Incoming& incoming, const Reply& reply);
  void create(const Incoming& incoming, const Reply& reply);
  void start(const Incoming& incoming, const Reply& reply);
  void remove(const Incoming& incoming, const Reply& reply);
  void remove_exec(const std::shared_ptr<Task>& task, const std::string& exec_id,
                   const Reply& reply);
  void pids(const Incoming& incoming, const Reply& reply);
  void pause(const Incoming& incoming, const Reply& reply);
  void resume(const Incoming& incoming, const Reply& reply);
  void checkpoint(const Incoming& incoming, const Reply& reply);
  void kill(const Incoming& incoming, const Reply& reply);
  void exec(const Incoming& incoming, const Reply& reply);
  void resize(const Incoming& incoming, const Reply& reply);
  void close_io(const Incoming& incoming, const Reply& reply);
  void update(const Incoming& incoming, const Reply& reply);
  void wait(const Incoming& incoming, const Reply& reply);
  void stats(const Incoming& incoming, const Reply& reply);
  void connect(const Incoming& incoming, const Reply& reply);
  void shutdown(const Incoming& incoming, const Reply& reply);

  std::shared_ptr<Task> find(const std::string& id, const Reply& reply);
  // The task, once its create is over.
  void with_task(const std::string& id, const Reply& reply,
                 const std::function<void(const std::shared_ptr<Task>&)>& use);
  void freeze(const Incoming& incoming, const Reply& reply, bool freeze);
  // `tell`: it is init's end, which nobody has been told of.
  void answer_deleted(const Process& process, const std::shared_ptr<Task>& task, bool tell,
                      const Reply& reply);

  ShimContext& context_;
  std::function<void()> on_shutdown_;
  std::map<std::string, std::shared_ptr<Task>> tasks_;
  std::map<std::string, Reply> creations_;  // ways back of those that are being created
};

}  // namespace kiln::shim
