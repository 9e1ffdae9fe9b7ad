// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/error.h"

namespace kiln::oci {
struct Spec;
}  // namespace kiln::oci

namespace kiln::agent {

// Makes, below `rootfs_fd` (a directory; O_PATH will do): runtime-spec's default devices, their
// symbolic links, /dev/ptmx → pts/ptmx, and linux.devices. To be called in the container's mount
// namespace after its mounts and before pivot_root: /proc and /dev are still the guest's. Does
// nothing if the config mounts a directory of its own on /dev. The root file system is hostile: no
// path leads out of it. In a user namespace, and where nodes cannot be made, the guest's own nodes
// are bound in their place.
Result<void> create_devices(int rootfs_fd, const oci::Spec& spec);

}  // namespace kiln::agent
