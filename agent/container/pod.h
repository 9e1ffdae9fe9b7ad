// SPDX-License-Identifier: Apache-2.0
// The namespaces that the containers of a pod share where the pod's sandbox runs no process: they
// are held by descriptors.
#pragma once

#include <memory>

#include "agent/container/clone_process.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "oci/spec.h"

namespace kiln::protocol {
struct StatsReply;
}  // namespace kiln::protocol

namespace kiln::agent {

// Used by one thread; every call ends within seconds.
class Pod {
 public:
  // ipc and uts namespaces, host and domain name, linux.sysctl: those of the network are the
  // guest's own, as its network is.
  static Result<std::unique_ptr<Pod>> create(const oci::Spec& config);
  ~Pod();
  Pod(const Pod&) = delete;
  Pod& operator=(const Pod&) = delete;

  // For setns(2): CLONE_NEWIPC, CLONE_NEWUTS or CLONE_NEWPID; valid until the next call. A pid
  // namespace lives as long as its first process, so that one is made when it is first asked for.
  // kFailedPrecondition: the config has none of that type.
  Result<int> namespace_fd(int type);
  // The first process of its pid namespace, in the caller's; -1: there is none.
  pid_t init_pid() const { return init_.pid; }

  // Of the cgroup in which all containers are.
  static Result<protocol::StatsReply> stats();

 private:
  Pod() = default;
  Result<void> make_namespaces(const oci::Spec& config);
  Result<void> make_init();

  UniqueFd ipc_;
  UniqueFd uts_;
  bool has_pid_ = false;
  UniqueFd pid_;
  ClonedProcess init_;
};

}  // namespace kiln::agent
