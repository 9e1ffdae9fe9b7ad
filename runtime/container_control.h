// SPDX-License-Identifier: Apache-2.0
// What commands and the shim ask of a running container, and what they get when it has ended.
#pragma once

#include "agent/protocol/messages.h"
#include "base/error.h"
#include "runtime/container_dir.h"

namespace kiln::runtime {

// kFailedPrecondition when it does not run; with `all` that is no error, as with runc. A SIGKILL is
// carried out on the machine when the guest does not answer.
Result<void> kill_container(const ContainerDir& dir, int signal, bool all);

Result<void> freeze_container(const ContainerDir& dir, bool freeze);

// Of a container that has stopped: none, as runc.
Result<protocol::ProcessesReply> container_processes(const ContainerDir& dir);

Result<protocol::StatsReply> container_stats(const ContainerDir& dir);

}  // namespace kiln::runtime
