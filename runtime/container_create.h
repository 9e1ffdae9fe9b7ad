// SPDX-License-Identifier: Apache-2.0
// `kiln create` and what `run` and `box` share with it.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "base/process.h"
#include "base/unique_fd.h"
#include "runtime/container_cgroup.h"
#include "runtime/container_dir.h"
#include "runtime/plan.h"

namespace kiln::runtime {

struct NewContainer {
  std::string root;  // the state directory of all containers
  MonitorPlan plan;
  std::string log_path;  // --log; empty: <root>/<id>/log
  // The container's standard streams; unset: the caller's. One that is invalid is /dev/null.
  std::optional<std::array<UniqueFd, 3>> stdio = std::nullopt;
  UniqueFd console;              // where the pty's master goes; with process.terminal alone
  std::vector<UniqueFd> passed;  // as plan.passed
  CgroupOptions cgroup;
};

struct CreatedContainer {
  ContainerDir dir;
  ChildProcess monitor;  // outlives us
  UniqueFd lifeline;     // with plan.ends_with_creator: closing it ends the container
  pid_t pid() const { return monitor.pid; }
};

// The container waits for start, and its standard streams are what `stdio` says (or
// the terminal's master is on its way to `console`). On failure nothing is left.
Result<CreatedContainer> create_container(NewContainer options);

// `container_start`: what start and run do. Warnings of poststart hooks are logged. With
// `await_ready`, when there is a notification socket: not before the container has said READY=1, or
// has ended.
Result<void> start_container(const ContainerDir& dir, bool await_ready);

// The pid as text and without a newline, as runc writes it; atomically, because engines watch for
// it.
Result<void> write_pid_file(const std::string& path, pid_t pid);

// The caller's terminal ↔ the container's pty; signals → the container. Ends with the container,
// with its exit code. `master` invalid: no terminal.
Result<int> attend_container(const CreatedContainer& container, UniqueFd master);

}  // namespace kiln::runtime
