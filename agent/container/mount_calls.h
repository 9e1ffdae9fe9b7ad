// SPDX-License-Identifier: Apache-2.0
// The kernel's mount calls on descriptors: what is mounted and where is decided by what is open,
// never by a path that a container could change in between.
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::agent {

// A copy of the mount at `path` (empty: of `directory_fd` itself) that is mounted nowhere;
// `recursive`: with what is mounted below it. It is gone with its last descriptor, unless attached.
Result<UniqueFd> clone_mount(int directory_fd, const std::string& path, bool recursive);

// Mounts `mount_fd` on what `target_fd` refers to (O_PATH will do).
Result<void> attach_mount(int mount_fd, int target_fd);

// MOUNT_ATTR_* of <linux/mount.h>; `recursive`: of every mount below it too.
Result<void> set_mount_attributes(int mount_fd, uint64_t set, uint64_t clear, bool recursive);

// MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE, perhaps with MS_REC.
Result<void> set_mount_propagation(int mount_fd, unsigned long flags);

// Shows the files' owners as the user namespace maps them. EINVAL: not every file system can.
Result<void> set_mount_id_map(int mount_fd, int user_namespace_fd, bool recursive);

// The MS_* flags that a single mount can have, as MOUNT_ATTR_*. The access time modes are a field:
// to set one, MOUNT_ATTR__ATIME has to be cleared.
struct MountAttributes {
  uint64_t set = 0;
  uint64_t clear = 0;
};
MountAttributes attributes_of_flags(unsigned long set, unsigned long clear);

// The magic number of the file system that a descriptor is on (statfs(2)); 0 if it cannot be told.
uint64_t file_system_magic(int fd);

}  // namespace kiln::agent
