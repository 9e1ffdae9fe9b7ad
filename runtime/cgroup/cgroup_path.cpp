// SPDX-License-Identifier: Apache-2.0
#include "runtime/cgroup/cgroup_path.h"

#include <algorithm>
#include <vector>

#include "base/format.h"

namespace kiln::runtime {
namespace {

std::string parent_of(const std::string& path) { return path.substr(0, path.rfind('/')); }

// systemd.slice(5): a-b.slice lies in a.slice; `-.slice` is the root.
Result<std::string> expand_slice(const std::string& slice) {
  constexpr std::string_view suffix = ".slice";
  const auto invalid = [&] {
    return invalid_argument(fmt::format("invalid slice name: {}", slice));
  };
  if (!slice.ends_with(suffix) || slice.size() == suffix.size() ||
      slice.find('/') != std::string::npos)
    return invalid();
  const std::string name = slice.substr(0, slice.size() - suffix.size());
  if (name == "-") return std::string();
  std::string path;
  std::string prefix;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('-', begin), name.size());
    if (end == begin) return invalid();
    prefix += (prefix.empty() ? "" : "-") + name.substr(begin, end - begin);
    path += fmt::format("/{}{}", prefix, suffix);
    begin = end + 1;
  }
  return path;
}

}  // namespace

std::string clean_cgroup_path(const std::string& path) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin < path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    if (part == "..") {
      if (!parts.empty()) parts.pop_back();
    } else if (!part.empty() && part != ".") {
      parts.push_back(part);
    }
    begin = end + 1;
  }
  std::string out = path.starts_with('/') ? "/" : "";
  for (size_t i = 0; i < parts.size(); ++i) out += (i == 0 ? "" : "/") + parts[i];
  return out;
}

HostCgroup place_cgroup(const Hierarchies& hierarchies, const std::string& cgroups_path,
                        const std::string& id) {
  std::string path = clean_cgroup_path(cgroups_path);
  if (path.empty()) path = clean_cgroup_path(id);
  HostCgroup out;
  out.unified = hierarchies.unified();
  for (const auto& [controller, hierarchy] : hierarchies.by_controller) {
    std::string base = hierarchy.mount;
    if (!path.starts_with('/')) {
      const bool at_root = hierarchy.own == hierarchy.mount;
      base = out.unified && !at_root ? parent_of(hierarchy.own) : hierarchy.own;
      base += '/';
    }
    out.directories[controller] = path == "/" ? base : base + path;
  }
  return out;
}

Result<ScopeName> parse_scope_name(const std::string& cgroups_path, const std::string& id,
                                   bool rootless) {
  ScopeName out;
  out.slice = rootless ? "user.slice" : "system.slice";
  std::string prefix = "kiln";
  std::string name = id;
  if (!cgroups_path.empty()) {
    const size_t first = cgroups_path.find(':');
    const size_t second = cgroups_path.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos ||
        cgroups_path.find(':', second + 1) != std::string::npos) {
      return invalid_argument(
          fmt::format("expected cgroupsPath to be of format \"slice:prefix:name\" for systemd "
                      "cgroups, got \"{}\" instead",
                      cgroups_path));
    }
    if (first > 0) out.slice = cgroups_path.substr(0, first);
    prefix = cgroups_path.substr(first + 1, second - first - 1);
    name = cgroups_path.substr(second + 1);
  }
  out.unit = fmt::format("{}{}{}.scope", prefix, prefix.empty() ? "" : "-", name);
  if (name.empty() || out.unit.find('/') != std::string::npos || out.unit.size() > 255)
    return invalid_argument(fmt::format("invalid systemd unit name: {}", out.unit));
  out.path = TRY(expand_slice(out.slice)) + "/" + out.unit;
  return out;
}

}  // namespace kiln::runtime
