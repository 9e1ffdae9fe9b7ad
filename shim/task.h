// SPDX-License-Identifier: Apache-2.0
// One container of the shim, with its execs, as containerd sees it: a task.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "shim/container_job.h"
#include "shim/exec.h"
#include "shim/publisher.h"
#include "shim/streaming.h"
#include "shim/workers.h"

namespace kiln::shim {

struct ShimContext {
  EventLoop& loop;
  Workers& workers;
  Publisher& publisher;
  Streaming& streaming;
  std::string namespace_name;
  bool unified_cgroups = false;
  std::string sandbox_bundle = {};  // of the sandbox API's sandbox; empty: there is none
  api::Any options = {};            // of the runtime, as `start` got them
};

// Of init, or of an exec.
struct Process {
  StdioPaths stdio;
  api::TaskStatus status = api::CREATED;
  uint32_t pid = 0;
  uint32_t exit_status = 0;
  api::Timestamp exited_at;
  std::vector<std::function<void()>> waiting;  // for its end
  std::unique_ptr<Exec> exec;                  // null: init
  bool starting = false;
  bool stopped() const { return status == api::STOPPED; }
};

// Used by the event loop's thread; kept alive by what is under way. Callbacks may come at once.
//
// The end of init is told when its monitor has ended, everything that the monitor said has been
// heard, its start has been answered, and every exec's end has been told.
class Task : public std::enable_shared_from_this<Task> {
 public:
  using Done = std::function<void(Result<void>)>;

  Task(ShimContext& context, NewTask description)
      : context_(context), description_(std::move(description)) {}
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;

  const std::string& id() const { return description_.id; }
  const std::string& bundle() const { return description_.bundle; }

  void create(Done done);
  // Calls back when create is over, at once if it is: containerd gives up on calls, and goes on
  // with the next.
  void when_created(std::function<void()> next);

  // Empty: init. Null: there is no such exec.
  Process* find(const std::string& exec_id);
  const Process& init() const { return init_; }

  void start(Done done);
  void add_exec(const std::string& exec_id, oci::Process process, StdioPaths stdio, Done done);
  void start_exec(const std::string& exec_id, Done done);
  void kill(const std::string& exec_id, int signal, bool all, Done done);
  void freeze(bool freeze, Done done);
  void resize(const std::string& exec_id, uint16_t rows, uint16_t columns, Done done);
  Result<void> close_stdin(const std::string& exec_id);
  void update(const Json& resources, Done done);
  uint64_t oom_kills() const { return oom_kills_; }
  void stats(std::function<void(Result<protocol::StatsReply>)> done);
  // Kills a container that was never started; one that runs is an error.
  void remove(Done done);
  void remove_exec(const std::string& exec_id);
  // When the process has ended; at once if it has.
  void wait(const std::string& exec_id, std::function<void()> done);

 private:
  void made(Result<MadeTask> made, const Done& done);
  Result<void> watch();
  void handle_event(const protocol::Event& event);
  template <typename Message>
  void publish(const char* topic, const char* type, const Message& message) {
    if (!description_.silent) context_.publisher.publish(topic, type, message);
  }
  void tell_oom();
  void fail_start(Error error, Done done);
  // When init has ended, or does not for a long time.
  void at_end(std::function<void(bool ended)> tell);
  void monitor_ended();
  void check_ended();
  void end();
  void exec_ended(const std::string& exec_id, int code);
  void finish_process(Process& process, const std::string& exec_id, int code);
  void finish_removal();
  // A call on the state directory that blocks.
  void run(std::function<Result<void>(const runtime::ContainerDir&)> job, Done done);

  ShimContext& context_;
  NewTask description_;
  std::string root_;
  std::optional<runtime::CreatedContainer> container_;
  UniqueFd stdin_keeper_;
  std::unique_ptr<runtime::RpcClient> monitor_;
  Process init_;
  std::map<std::string, Process> execs_;
  bool creating_ = false;
  std::vector<std::function<void()>> after_create_;
  std::optional<int> code_;  // of the monitor
  uint64_t oom_kills_ = 0;   // that have been told
  bool removing_ = false;
  std::optional<Result<void>> removed_;
  std::vector<Done> removals_;
};

}  // namespace kiln::shim
