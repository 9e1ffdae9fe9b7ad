// SPDX-License-Identifier: Apache-2.0
// Files of one cgroup directory, and the tree below it. Names of cgroups below come from the
// container; each is opened relative to its parent and never followed if it is a link.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::agent {

// How deep the container may nest cgroups: the agent walks them with a descriptor a level.
inline constexpr int kMaxCgroupDepth = 64;

Result<UniqueFd> open_cgroup(int parent, const std::string& name);

// `file` is a plain name. The error of writing says neither value nor origin: the caller knows
// them.
Result<std::string> read_cgroup_file(int directory, const std::string& file);
Result<void> write_cgroup_file(int directory, const std::string& file, std::string_view value);

// Is `word` one of the blank-separated words of `text`?
bool has_word(std::string_view text, std::string_view word);

// The number after `key ` on a line of its own, as in cgroup.events; an error without such a line.
Result<uint64_t> keyed_number(std::string_view text, std::string_view key);

// Appends the processes of a cgroup and all below it. What vanishes meanwhile is left out.
Result<void> collect_processes(int directory, std::vector<pid_t>& out, int depth = 0);

// Removes the cgroups below. EBUSY: there are processes.
Result<void> remove_cgroups_below(int directory, int depth = 0);

}  // namespace kiln::agent
