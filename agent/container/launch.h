// SPDX-License-Identifier: Apache-2.0
// What a process does between its making and its exec: the container's first one, and those that
// enter it later. Everything here runs in that process.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "agent/container/child_channel.h"
#include "agent/container/container.h"
#include "agent/container/namespaces.h"
#include "agent/container/seccomp_filter.h"
#include "oci/spec.h"

namespace kiln::agent {

struct InitLaunch {
  const oci::Spec& spec;
  const std::string& id;
  NamespacePlan namespaces;
  int rootfs_fd = -1;                    // a mount that is not attached yet
  const std::vector<UniqueFd>& sources;  // of open_mount_sources()
  const ProcessFds& stdio;
  const std::optional<SeccompProgram>& seccomp;
};

struct ExecLaunch {
  const oci::Process& process;
  const oci::Linux& linux;
  const std::string& id;
  NamespacePlan namespaces;
  int init_pidfd = -1;
  int rootfs_fd = -1;  // the container's root
  const ProcessFds& stdio;
  const std::optional<SeccompProgram>& seccomp;
};

// Both return only to report a failure. They say kReady when set up (init then waits for the agent)
// and kExecuting right before execve.
Error launch_init(const InitLaunch& launch, const ChildChannel& channel);
Error launch_exec(const ExecLaunch& launch, const ChildChannel& channel);

}  // namespace kiln::agent
