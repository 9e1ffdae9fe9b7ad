// SPDX-License-Identifier: Apache-2.0
#include "runtime/cgroup/hierarchies.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "base/file.h"

namespace kiln::runtime {
namespace {

constexpr std::string_view kTop = "/sys/fs/cgroup";

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> out;
  while (!text.empty()) {
    const size_t end = std::min(text.find(separator), text.size());
    out.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

struct Mount {
  std::string root;  // of the hierarchy, what is visible at the mount point
  std::string point;
  std::string type;
  std::vector<std::string> options;  // of the file system
};

// proc_pid_mountinfo(5): 36 35 98:0 /root /point options optional… - type source options
bool parse_mount(const std::string& line, Mount& out) {
  const size_t dash = line.find(" - ");
  if (dash == std::string::npos) return false;
  const std::vector<std::string> front = split(std::string_view(line).substr(0, dash), ' ');
  const std::vector<std::string> back = split(std::string_view(line).substr(dash + 3), ' ');
  if (front.size() < 5 || back.size() < 3) return false;
  out = {front[3], front[4], back[0], split(back[2], ',')};
  return out.type == "cgroup" || out.type == "cgroup2";
}

// /proc/self/cgroup: `4:memory:/a/b`, `1:name=systemd:/`, `0::/`. By controller.
std::map<std::string, std::string> parse_own(const std::string& text) {
  std::map<std::string, std::string> out;
  for (const std::string& line : split(text, '\n')) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string path = line.substr(second + 1);
    const std::string names = line.substr(first + 1, second - first - 1);
    if (names.empty()) out[""] = path;
    for (const std::string& name : split(names, ',')) out[name] = path;
  }
  return out;
}

std::string join(const std::string& directory, const std::string& path) {
  return path.empty() || path == "/" ? directory : directory + path;
}

// A container that shows a part of its host's hierarchy has that part's path in both files.
std::string own_directory(const Mount& mount, const std::string& own) {
  if (mount.root == "/") return join(mount.point, own);
  if (own == mount.root) return mount.point;
  if (own.starts_with(mount.root + "/")) return join(mount.point, own.substr(mount.root.size()));
  return mount.point;
}

}  // namespace

Hierarchies parse_hierarchies(const std::string& mountinfo, const std::string& own_cgroups) {
  Hierarchies out;
  const auto own = parse_own(own_cgroups);
  for (const std::string& line : split(mountinfo, '\n')) {
    Mount mount;
    // Elsewhere than below the usual place is somebody else's view, a container's for instance.
    if (!parse_mount(line, mount) || !mount.point.starts_with(kTop)) continue;
    for (const auto& [name, path] : own) {
      const bool here = name.empty() ? mount.type == "cgroup2"
                                     : mount.type == "cgroup" &&
                                           std::find(mount.options.begin(), mount.options.end(),
                                                     name) != mount.options.end();
      if (here)
        out.by_controller.try_emplace(name, Hierarchy{mount.point, own_directory(mount, path)});
    }
  }
  return out;
}

Result<Hierarchies> find_hierarchies() {
  const std::string mounts = TRY(read_file("/proc/self/mountinfo"));
  const std::string own = TRY(read_file("/proc/self/cgroup"));
  return parse_hierarchies(mounts, own);
}

}  // namespace kiln::runtime
