// SPDX-License-Identifier: Apache-2.0
// The container's files as the host can show them: a mount namespace with its root and its binds.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "oci/spec.h"
#include "runtime/shares.h"

namespace kiln::runtime {

// Engines enter the mount namespace of the container's pid to copy files in and out. There they
// find the rootfs and what is bound into it, at their places. What only the guest has (tmpfs,
// /proc, a root on a disk) is an empty directory that nobody can write to.
class ContainerView {
 public:
  // Copies of the shares' mounts, while they are open. No value where copies are not permitted.
  static Result<std::optional<ContainerView>> open(const oci::Spec& spec, const Shares& shares);

  // The calling thread moves into a mount namespace that has nothing else. `stage`: a directory of
  // the host, on which it is put together.
  Result<void> enter(const std::string& stage);

 private:
  struct Mount {
    std::string destination;
    UniqueFd tree;  // none: an empty directory
  };

  ContainerView() = default;
  Result<void> add_mounts();

  UniqueFd root_;
  std::vector<Mount> mounts_;
};

}  // namespace kiln::runtime
