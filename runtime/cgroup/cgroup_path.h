// SPDX-License-Identifier: Apache-2.0
// From linux.cgroupsPath to the directories that it means on this host, as runc takes it.
#pragma once

#include <map>
#include <string>

#include "base/error.h"
#include "runtime/cgroup/hierarchies.h"

namespace kiln::runtime {

// The container's cgroup on the host: one directory for each hierarchy. Kept in state.json.
struct HostCgroup {
  bool unified = false;
  std::map<std::string, std::string> directories;  // by controller; v2 is ""
  std::string unit;                                // systemd's scope; empty: made by us
  bool of_user = false;                            // the scope is of the user's systemd
};

// A path without `.`, `..` and double slashes, which cannot lead above `/`. A relative one stays
// relative; "" stays empty.
std::string clean_cgroup_path(const std::string& path);

// runtime-spec 1.2 config-linux.md#cgroups-path. Absolute: below each hierarchy's mount. Relative:
// below our own cgroup in v1, beside it in v2, whose inner cgroups can hold no processes. Empty:
// `id` in the place of a relative path.
HostCgroup place_cgroup(const Hierarchies& hierarchies, const std::string& cgroups_path,
                        const std::string& id);

// `slice:prefix:name` with --systemd-cgroup.
struct ScopeName {
  std::string slice;  // system.slice
  std::string unit;   // prefix-name.scope
  std::string path;   // below systemd's own cgroup: /a.slice/a-b.slice/prefix-name.scope
};
Result<ScopeName> parse_scope_name(const std::string& cgroups_path, const std::string& id,
                                   bool rootless);

}  // namespace kiln::runtime
