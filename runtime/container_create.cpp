// SPDX-License-Identifier: Apache-2.0
#include "runtime/container_create.h"

#include <fcntl.h>
#include <sys/time.h>
#include <unistd.h>

#include <ctime>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/format.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "oci/version.h"
#include "runtime/container_delete.h"
#include "runtime/control_client.h"
#include "runtime/pod_annotations.h"
#include "runtime/shares.h"

namespace kiln::runtime {
namespace {

constexpr int kMonitorEndMs = 10'000;

// RFC 3339 with nanoseconds, as runc's.
std::string timestamp() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  tm parts{};
  gmtime_r(&now.tv_sec, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z", parts.tm_year + 1900,
                     parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec,
                     now.tv_nsec);
}

ContainerRecord first_record(const MonitorPlan& plan) {
  ContainerRecord record;
  record.state.oci_version =
      plan.spec.oci_version.empty() ? oci::kSpecVersion : plan.spec.oci_version;
  record.state.id = plan.id;
  record.state.status = "creating";
  record.state.bundle = plan.bundle;
  record.state.annotations = plan.spec.annotations;
  record.state.rootfs = rootfs_path(plan.spec, plan.bundle);
  record.state.created = timestamp();
  record.terminal = plan.spec.process->terminal;
  record.process = *plan.spec.process;
  if (plan.join) record.sandbox = plan.join->owner;
  if (plan.spec.hooks) record.poststop = plan.spec.hooks->poststop;
  record.machine = host_machine(plan.vm);
  record.vcpus = plan.vm.machine.vcpu_count;
  if (plan.spec.linux.resources) record.resources = *plan.spec.linux.resources;
  return record;
}

// A shim whose file an upgrade has replaced goes on with the program that it is.
Result<std::string> own_program() {
  std::string path = TRY(own_executable());
  return path.ends_with(" (deleted)") ? "/proc/self/exe" : path;
}

Result<ChildProcess> spawn_monitor(const NewContainer& options, const ContainerDir& dir, int sync) {
  const std::string log_path = options.log_path.empty() ? dir.file("log") : options.log_path;
  const UniqueFd log = TRY(open_file(log_path, O_WRONLY | O_CREAT | O_APPEND, 0600));
  SpawnOptions spawned;
  spawned.program = TRY(own_program());
  spawned.argv = {"kiln", "--root", options.root, "monitor", options.plan.id};
  for (int fd = 0; fd < 3; ++fd) {
    const int here = options.stdio ? (*options.stdio)[static_cast<size_t>(fd)].get() : fd;
    if (here >= 0 && fcntl(here, F_GETFD) >= 0) spawned.fds.emplace_back(here, fd);
  }
  spawned.fds.emplace_back(sync, kSyncFd);
  spawned.fds.emplace_back(dir.fd(), kDirFd);
  spawned.fds.emplace_back(log.get(), kLogFd);
  if (options.console) spawned.fds.emplace_back(options.console.get(), kConsoleFd);
  for (size_t i = 0; i < options.passed.size(); ++i)
    spawned.fds.emplace_back(options.passed[i].get(), kPassedFd + static_cast<int>(i));
  spawned.working_directory = options.plan.bundle;
  spawned.parent_death_signal = 0;
  spawned.new_session = true;
  return spawn(spawned);
}

// Waits for the monitor's word; a monitor that dies without one is an error too.
Result<void> await_outcome(int sync, const ChildProcess& monitor) {
  auto frame = receive_frame(sync, kMaxPlanBytes);
  if (frame) return decode_outcome(*frame);
  const auto ended = wait_child(monitor, kMonitorEndMs);
  std::string how = "it does not answer";
  if (ended && *ended) {
    how = (*ended)->signal != 0 ? fmt::format("it was killed by signal {}", (*ended)->signal)
                                : fmt::format("it ended with code {}", (*ended)->code);
  }
  return make_error(ErrorKind::kAborted, fmt::format("the container's monitor has died: {}", how));
}

// The monitor has undone its part; ours is the directory, and the poststop hooks that are due.
void undo(ContainerDir& dir, ChildProcess& monitor) {
  const auto ended = wait_child(monitor, kMonitorEndMs);
  if (!ended || !*ended) kill_and_reap(monitor);
  // Another command may have deleted it already, and used the id again.
  if (!dir.still_there()) return;
  Result<void> removed;
  if (const auto record = dir.read_record()) {
    for (const ProcessId& helper : record->helpers)
      static_cast<void>(kill_process(helper, kMonitorEndMs));
    removed = remove_container(dir, *record);
  } else {
    removed = dir.remove();
  }
  if (!removed) log_warning("{}, ignoring", removed.error().message);
}

// Of a container that joins a sandbox: the machine is there already, and as large as it is.
Result<void> adopt_machine(ContainerRecord& record, const std::string& root) {
  const ContainerDir owner = TRY(ContainerDir::open(root, record.sandbox));
  const ContainerRecord other = TRY(owner.read_record());
  record.machine = other.machine;
  record.vcpus = other.vcpus;
  const auto& memory = record.resources.memory;
  const uint64_t bytes = record.machine.memory_mib << 20;
  if (memory && memory->limit.value_or(-1) > 0 && static_cast<uint64_t>(*memory->limit) > bytes)
    log_warning("the memory limit of {} bytes is more than the {} MiB that sandbox {} has",
                *memory->limit, record.machine.memory_mib, record.sandbox);
  return {};
}

Result<void> prepare(const ContainerDir& dir, ContainerRecord& record, NewContainer& options) {
  if (!record.sandbox.empty())
    TRY(wrap(adopt_machine(record, options.root), fmt::format("join sandbox {}", record.sandbox)));
  record.cgroup = TRY(choose_cgroup(options.plan, options.cgroup));
  // Before it is made: whoever cleans up after a crash finds it here.
  TRY(dir.write_cgroup(record.cgroup));
  return dir.write_record(record);
}

// The monitor waits for its plan until it is where it and all its children are to be.
Result<void> hand_over(const ContainerDir& dir, ContainerRecord& record,
                       const NewContainer& options, const ChildProcess& monitor, int sync) {
  if (is_in_sandbox_cgroup(record)) {
    const ContainerDir owner = TRY(ContainerDir::open(options.root, record.sandbox));
    HostCgroup sandbox = TRY(owner.read_record()).cgroup;
    TRY(place_monitor_in(std::move(sandbox), options.cgroup, monitor.pid));
  } else {
    TRY(place_monitor(record, options.plan, options.cgroup, monitor.pid));
  }
  TRY(dir.write_record(record));
  // A monitor that dies early shows up in the outcome.
  static_cast<void>(send_frame(sync, encode_plan(options.plan)));
  return await_outcome(sync, monitor);
}

}  // namespace

Result<CreatedContainer> create_container(NewContainer options) {
  options.plan.pod = pod_role(options.plan.spec) == PodRole::kSandbox;
  ContainerDir dir = TRY(ContainerDir::create(options.root, options.plan.id));
  ContainerRecord record = first_record(options.plan);
  Result<ChildProcess> monitor = ChildProcess();
  auto sockets = socket_pair(SOCK_STREAM);
  Result<void> prepared = prepare(dir, record, options);
  if (prepared && sockets) monitor = spawn_monitor(options, dir, sockets->second.get());
  if (!prepared || !sockets || !monitor) {
    static_cast<void>(dir.remove());
    if (!prepared) return tl::unexpected(std::move(prepared.error()));
    if (!sockets) return tl::unexpected(std::move(sockets.error()));
    return tl::unexpected(std::move(monitor.error()).wrap("start the container's monitor"));
  }
  sockets->second.reset();
  UniqueFd sync = std::move(sockets->first);
  options.console.reset();
  options.stdio.reset();
  options.passed.clear();
  auto outcome = hand_over(dir, record, options, *monitor, sync.get());
  if (!outcome) {
    sync.reset();  // a monitor that still waits for its plan ends
    undo(dir, *monitor);
    return tl::unexpected(std::move(outcome.error()));
  }
  if (auto limited = limit_container_cgroup(record); !limited && dir.still_there()) {
    static_cast<void>(delete_container(options.root, options.plan.id, true));
    return tl::unexpected(std::move(limited.error()));
  }
  return CreatedContainer{std::move(dir), std::move(*monitor), std::move(sync)};
}

Result<void> start_container(const ContainerDir& dir, bool await_ready) {
  const ContainerRecord record = TRY(dir.current_record());
  if (record.state.status == "stopped")
    return make_error(ErrorKind::kFailedPrecondition, "cannot start a container that has stopped");
  if (record.state.status == "running")
    return make_error(ErrorKind::kFailedPrecondition, "cannot start an already running container");
  if (record.state.status != "created")
    return make_error(ErrorKind::kFailedPrecondition,
                      fmt::format("cannot start a container in the {} state", record.state.status));
  const Json answer = TRY(call_monitor(dir, "start", {{"await_ready", await_ready}}, 0));
  if (const auto warnings = answer.find("warnings"); warnings != answer.end()) {
    for (const Json& warning : *warnings) {
      if (warning.is_string()) log_warning("{}, ignoring", warning.get<std::string>());
    }
  }
  return {};
}

Result<void> write_pid_file(const std::string& path, pid_t pid) {
  return write_file_atomic(path, std::to_string(pid), 0644);
}

}  // namespace kiln::runtime
