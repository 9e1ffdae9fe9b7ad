// SPDX-License-Identifier: Apache-2.0
// The fstab-like options of config.json's mounts as the kernel's flags.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <tl/expected.hpp>

namespace kiln::oci {

enum class IdMapKind : uint8_t { kNone, kMount, kRecursive };  // idmap, ridmap

// When options contradict each other, the last one wins.
struct MountOptions {
  unsigned long set = 0;  // MS_* for mount(2); without MS_BIND, MS_REC, MS_REMOUNT, propagation
  unsigned long clear =
      0;  // MS_* that were named to be off; a remount of a bind must not keep them
  uint64_t recursive_set = 0;  // MOUNT_ATTR_* for mount_setattr(2) with AT_RECURSIVE
  uint64_t recursive_clear = 0;
  std::vector<unsigned long> propagation;  // MS_SHARED …, perhaps | MS_REC; in order, a call each
  bool bind = false;                       // bind or rbind
  bool recursive_bind = false;             // rbind
  bool remount = false;
  bool copy_up = false;  // tmpcopyup: a tmpfs starts with what it hides
  IdMapKind id_map = IdMapKind::kNone;
  std::string data;  // what the table does not know, for the file system, joined by commas
};

// A rule that the option at `index` breaks.
struct MountOptionError {
  size_t index = 0;
  std::string rule;
};
tl::expected<MountOptions, MountOptionError> parse_mount_options(
    const std::vector<std::string>& options);

// Every option of the table, sorted; what `features` lists.
std::vector<std::string> mount_option_names();

}  // namespace kiln::oci
