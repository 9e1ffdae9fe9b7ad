// SPDX-License-Identifier: Apache-2.0
// The container's root file system: found and prepared by the agent as a mount that only a
// descriptor holds, made the root by the container's first process in its own mount namespace.
#pragma once

#include <string>

#include "agent/container/container.h"

namespace kiln::agent {

// By the agent: the tree at setup.rootfs, or an overlay on it. Nothing stays mounted in the
// agent's namespace.
Result<UniqueFd> open_rootfs(const ContainerSetup& setup);

// By the first process, in its new mount namespace: cuts it off from the agent's, makes a scratch
// directory, and mounts the root there, where it waits for enter_root().
Result<void> place_rootfs(int rootfs_fd);
// An empty directory of that process alone, to mount things on before they get their place.
inline constexpr char kStage[] = "/run/stage";

// pivot_root(2), and the guest's tree is gone.
Result<void> enter_root(int rootfs_fd);

// linux.rootfsPropagation; nothing for an empty one.
Result<void> set_root_propagation(int rootfs_fd, const std::string& propagation);

}  // namespace kiln::agent
