// SPDX-License-Identifier: Apache-2.0
// A container's way to the sandbox that it is in: its own (sandbox.h), or that of another container
// (joined_sandbox.h).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "agent/protocol/messages.h"
#include "base/error.h"
#include "runtime/agent_client.h"
#include "runtime/container_dir.h"
#include "runtime/shares.h"

namespace kiln::runtime {

struct SandboxCallbacks {
  std::function<void()> on_ready;  // the agent can be asked
  std::function<void(const protocol::ExitEvent&)> on_exit;
  std::function<void(const protocol::OomEvent&)> on_oom;
  std::function<void(const protocol::NotifyEvent&)> on_notify;
  // The machine stands from now on, or goes on.
  std::function<void(bool stands)> on_paused = nullptr;
  // Once: the sandbox has ended without being asked to.
  std::function<void(Error)> on_lost;
};

// Owned by the monitor, used by its only thread.
class SandboxLink {
 public:
  virtual ~SandboxLink() = default;
  // The entry under which it is there: perhaps one that other containers use already.
  virtual Result<std::string> add_share(const Share& share) = 0;
  virtual Agent* agent() = 0;  // null before on_ready
  virtual const std::string& vsock_path() const = 0;
  // The processes that are this container's alone, beside the monitor.
  virtual std::vector<ProcessId> processes() const = 0;
  // Idempotent; on_lost is not called any more.
  virtual void stop() = 0;
  // The last lines of the guest's console, for an error message; empty if there are none.
  virtual std::string console_tail() const = 0;
};

}  // namespace kiln::runtime
