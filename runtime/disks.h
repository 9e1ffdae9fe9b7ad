// SPDX-License-Identifier: Apache-2.0
// Block devices and image files that go into the VM as drives: a root file system that is no
// directory, mounts of a type that lives on a disk, and block devices that the container gets as
// such. Nothing is mounted on the host, whose kernel never parses what is on them.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "oci/spec.h"
#include "runtime/plan.h"

namespace kiln::runtime {

struct Disk {
  std::string id;      // of the drive
  std::string source;  // for messages
  std::string type;    // of its file system; empty for a device
  bool read_only = false;
  UniqueFd fd;  // locked against other writers, for as long as anybody has it
};

struct Disks {
  std::vector<Disk> list;
  bool has_root = false;                // the first is the root file system
  size_t root_layers = 0;               // or so many are its layers, the uppermost first
  bool has_upper = false;               // and the next one gets what is written
  std::map<size_t, size_t> of_mounts;   // index in spec.mounts → index in list
  std::map<size_t, size_t> of_devices;  // index in spec.linux.devices → index in list
};

// Opens every disk that `spec` names; relative paths are the bundle's. `overlaid`: the guest puts a
// writable layer over the root file system, which itself stays read-only.
// `layers`: if there are any, they are the root.
Result<Disks> open_disks(const oci::Spec& spec, const std::string& bundle, bool overlaid,
                         const RootLayers& layers = {});

// The type of the file system on `fd`, by its superblock: ext4 (for ext2 and ext3 too), erofs,
// squashfs or xfs. kInvalidArgument for anything else.
Result<std::string> probe_file_system(int fd);

}  // namespace kiln::runtime
