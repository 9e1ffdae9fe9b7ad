// SPDX-License-Identifier: Apache-2.0
// What the agent's core needs of a container: agent/container's class, or a test's stand-in.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "agent/container/container.h"
#include "agent/protocol/messages.h"

namespace kiln::agent {

// Each function is that of the same name in agent/container/container.h.
class GuestContainer {
 public:
  virtual ~GuestContainer() = default;
  virtual StartedProcess& init() = 0;
  virtual Result<void> begin_start() = 0;
  virtual int start_fd() const = 0;
  virtual Result<void> finish_start() = 0;
  virtual Result<StartedProcess> exec(const oci::Process& process, ProcessFds stdio) = 0;
  virtual Result<std::vector<pid_t>> processes() const = 0;
  virtual Result<void> signal_all(int signal) = 0;
  virtual Result<void> freeze(bool frozen) = 0;
  virtual Result<void> update(const oci::Resources& resources) = 0;
  virtual Result<void> refresh(size_t mount, const std::string& version) = 0;
  virtual Result<protocol::StatsReply> stats() const = 0;
  virtual int memory_events_fd() const = 0;
  virtual Result<uint64_t> oom_kills() const = 0;
  virtual int root_fd() const = 0;
  virtual void release_root() = 0;
  virtual Result<void> destroy() = 0;
};

using ContainerFactory = std::function<Result<std::unique_ptr<GuestContainer>>(
    const ContainerSetup& setup, ProcessFds stdio)>;

// Each function is that of the same name in agent/container/pod.h.
class GuestPod {
 public:
  virtual ~GuestPod() = default;
  virtual Result<int> namespace_fd(int type) = 0;
  virtual Result<protocol::StatsReply> stats() const = 0;
};

using PodFactory = std::function<Result<std::unique_ptr<GuestPod>>(const oci::Spec& config)>;

}  // namespace kiln::agent
