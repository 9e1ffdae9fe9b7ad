// SPDX-License-Identifier: Apache-2.0
// A container's root file system as containerd's snapshotters give it: a list of mounts.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "shim/layers.h"
#include "task.pb.h"

namespace kiln::shim {

// Of a snapshotter that gives one disk (blockfile, devmapper, erofs): the disk, which goes into the
// machine as it is, so that the host's kernel never parses its file system.
struct RootDisk {
  std::string source;
  bool read_only = false;
};
std::optional<RootDisk> root_disk(const Mounts& mounts);

// Mounts them on <bundle>/rootfs, in order. On failure nothing of ours stays mounted. On a thread
// of its own: it may change that thread's working directory.
Result<void> mount_rootfs(const Mounts& mounts, const std::string& bundle);

// Whatever is mounted there; no error where nothing is.
Result<void> unmount_rootfs(const std::string& bundle);

// overlay's options are one page at most, and paths of many layers are longer: the directory that
// they share, with its slash, which is then taken out of each. Empty: there is no need.
std::string shorten_layers(std::vector<std::string>& options);

}  // namespace kiln::shim
