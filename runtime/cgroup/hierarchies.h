// SPDX-License-Identifier: Apache-2.0
// Where this host has its cgroups mounted, and where in them we are ourselves.
#pragma once

#include <map>
#include <string>

#include "base/error.h"

namespace kiln::runtime {

// One mounted hierarchy: a cgroup v1 controller's, or v2's.
struct Hierarchy {
  std::string mount;  // /sys/fs/cgroup/memory
  std::string own;    // our own cgroup's directory: the mount itself, or below it
};

struct Hierarchies {
  // By controller; a v1 hierarchy of several is there once for each, one without any as
  // `name=systemd`. v2 is "".
  std::map<std::string, Hierarchy> by_controller;

  bool empty() const { return by_controller.empty(); }
  // v2 and nothing else; otherwise v1 has the controllers, and v2, where it is mounted too, has at
  // most those that v1 has not.
  bool unified() const { return by_controller.size() == 1 && by_controller.contains(""); }
};

// From the texts of /proc/self/mountinfo and /proc/self/cgroup.
Hierarchies parse_hierarchies(const std::string& mountinfo, const std::string& own_cgroups);
// Of this process.
Result<Hierarchies> find_hierarchies();

}  // namespace kiln::runtime
