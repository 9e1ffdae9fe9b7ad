// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "agent/container/child_channel.h"
#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::agent {

struct ClonePlan {
  uint64_t flags = 0;    // CLONE_NEW* for clone3(2)
  int cgroup_fd = -1;    // the process is born in it
  std::vector<int> fds;  // what it keeps of the agent's descriptors, beside the channel
  // In a helper that makes the process and ends: what a process cannot do to itself (enter a pid
  // or time namespace), or no longer once it is in a user namespace.
  std::function<Result<void>()> prepare;
  // In the process. Returns only to report a failure.
  std::function<Error(const ChildChannel&)> run;
};

struct ClonedProcess {
  pid_t pid = -1;
  UniqueFd pidfd;
  ChildChannel channel;
};

// A child of the caller, which must have one thread. It waits in the channel's wait_for_agent()
// before it runs.
Result<ClonedProcess> clone_process(const ClonePlan& plan);

// Closes all but the standard streams and `kept` (negative numbers are none). For a process on its
// way to its program: the objects that owned the descriptors must not be used any more.
void close_descriptors_except(std::vector<int> kept);

// Kills and reaps a process that is no longer wanted.
void discard(ClonedProcess& process);

}  // namespace kiln::agent
