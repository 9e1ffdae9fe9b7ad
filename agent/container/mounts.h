// SPDX-License-Identifier: Apache-2.0
// The mounts of config.json.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "agent/container/container.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "oci/spec.h"

namespace kiln::agent {

// By the agent: mounts that only descriptors hold, by index in spec.mounts (invalid: none). Bind
// mounts, whose sources the container's process cannot see, and what it may not make itself.
// `cgroup_fd`: the container's, which is what it sees without a cgroup namespace.
Result<std::vector<UniqueFd>> open_mount_sources(const ContainerSetup& setup, int cgroup_fd);

struct MountPlan {
  const oci::Spec& spec;
  const std::vector<UniqueFd>& sources;
  int root_fd = -1;  // the container's root, attached
};

// By the container's first process, before pivot_root.
class Mounter {
 public:
  explicit Mounter(const MountPlan& plan) : plan_(plan) {}
  Result<void> mount_all();
  // What is read-only, but needed to be written until now: mount points, devices.
  Result<void> finish();

 private:
  struct Entry;
  Result<void> mount_one(const Entry& entry);
  Result<UniqueFd> open_target(const Entry& entry) const;
  Result<void> remount(const Entry& entry) const;

  MountPlan plan_;
  std::vector<UniqueFd> read_only_at_end_;
};

}  // namespace kiln::agent
