// SPDX-License-Identifier: Apache-2.0
#include "runtime/container_delete.h"

#include <poll.h>
#include <unistd.h>

#include <ctime>

#include <nlohmann/json.hpp>

#include "base/format.h"
#include "base/log.h"
#include "runtime/container_cgroup.h"
#include "runtime/control_client.h"
#include "runtime/hooks.h"
#include "runtime/network/sandbox_network.h"

namespace kiln::runtime {
namespace {

constexpr int kPollMs = 10;
constexpr int kKillTimeoutMs = 10'000;
// The monitor gives the guest 3 s to end by itself.
constexpr int kDestroyTimeoutMs = 8000;
constexpr int kLockTimeoutMs = 10'000;

int64_t now_ms() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

bool wait_for_end(const ProcessId& process, int timeout_ms) {
  const int64_t deadline = now_ms() + timeout_ms;
  while (is_alive(process)) {
    if (now_ms() >= deadline) return false;
    poll(nullptr, 0, kPollMs);
  }
  return true;
}

// Asks first, so that the guest's last writes reach the shares; then there is no more asking.
Result<void> end_monitor(const ContainerDir& dir, const ContainerRecord& record) {
  if (!is_alive(record.monitor())) return {};
  // It ends all the same, if later.
  if (const auto lifted = lift_container_throttles(record); !lifted)
    log_warning("{}, ignoring", lifted.error().message);
  const bool ready = record.state.status != "creating";
  if (ready && call_monitor(dir, "destroy", Json::object(), kKillTimeoutMs) &&
      wait_for_end(record.monitor(), kDestroyTimeoutMs))
    return {};
  // It ends by itself as soon as its container has: a refusal to destroy may mean just that.
  if (ready && wait_for_end(record.monitor(), 500)) return {};
  return kill_process(record.monitor(), kKillTimeoutMs);
}

// VM and file-system server die with the monitor; this makes sure, and waits for it.
Result<void> end_helpers(const ContainerRecord& record) {
  for (const ProcessId& helper : record.helpers) {
    if (!wait_for_end(helper, 1000)) TRY(kill_process(helper, kKillTimeoutMs));
  }
  return {};
}

// True: we hold it. False: somebody else has deleted the container meanwhile.
Result<bool> lock_for_delete(ContainerDir& dir, bool force) {
  const int64_t deadline = now_ms() + kLockTimeoutMs;
  while (!TRY(dir.try_lock())) {
    if (!dir.still_there()) return false;
    if (force) {
      // A create that is under way ends with its monitor.
      if (const auto record = dir.read_record(); record && record->state.status == "creating")
        TRY(kill_process(record->monitor(), kKillTimeoutMs));
    }
    if (now_ms() >= deadline)
      return make_error(
          ErrorKind::kFailedPrecondition,
          fmt::format("container {} is being created or deleted by another command", dir.id()));
    poll(nullptr, 0, kPollMs);
  }
  return dir.still_there();
}

Result<void> delete_locked(ContainerDir& dir, bool force) {
  auto record = dir.current_record();
  if (!record) {
    // Its creator was killed before it had written anything, or the record is damaged: only the
    // cgroup is left to go by.
    if (!force && record.error().kind != ErrorKind::kNotFound)
      return tl::unexpected(std::move(record.error()));
    if (const auto cgroup = dir.read_cgroup()) TRY(remove_container_cgroup(*cgroup));
    return dir.remove();
  }
  // What ends by itself at this moment counts as stopped.
  if (record->exit_code && wait_for_end(record->monitor(), kDestroyTimeoutMs))
    record->state.status = "stopped";
  const std::string& status = record->state.status;
  if (!force && status != "stopped" && status != "created") {
    return make_error(
        ErrorKind::kFailedPrecondition,
        fmt::format("cannot delete container {} that is not stopped: {}", dir.id(), status));
  }
  TRY(end_monitor(dir, *record));
  TRY(end_helpers(*record));
  record->state.status = "stopped";
  return remove_container(dir, *record);
}

}  // namespace

Result<void> remove_container(ContainerDir& dir, const ContainerRecord& record) {
  for (const SharedSocketRecord& socket : record.shared_sockets) {
    if (const auto removed = remove_shared_socket(socket); !removed)
      log_warning("{}, ignoring", removed.error().message);
  }
  if (const auto clean = clean_network(record.network_path, record.network_interfaces); !clean)
    log_warning("{}, ignoring", clean.error().message);
  if (record.poststop_due && !record.poststop.empty()) {
    oci::State state = record.state;
    state.status = "stopped";
    state.pid = 0;
    const auto failures = run_hooks({"poststop", record.poststop, dump_json(oci::to_json(state)),
                                     state.bundle, HookFailure::kContinue});
    if (!failures) {
      log_warning("{}, ignoring", failures.error().message);
    } else {
      for (const Error& failure : *failures) log_warning("{}, ignoring", failure.message);
    }
  }
  TRY(remove_container_cgroup(record.cgroup));
  return dir.remove();
}

Result<void> delete_container(const std::string& root, const std::string& id, bool force) {
  auto dir = ContainerDir::open(root, id);
  if (!dir && dir.error().kind == ErrorKind::kNotFound && force) return {};
  if (!dir) return tl::unexpected(std::move(dir.error()));
  if (!TRY(lock_for_delete(*dir, force))) {
    if (force) return {};
    return make_error(ErrorKind::kNotFound, "container does not exist");
  }
  return delete_locked(*dir, force);
}

}  // namespace kiln::runtime
