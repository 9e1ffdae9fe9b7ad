// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::agent {

// For reading; `name` is no link. The error names it.
Result<UniqueFd> open_directory(int parent_fd, const std::string& name);

// What is in it, without `.` and `..`; O_PATH will do.
Result<std::vector<std::string>> directory_names(int directory_fd);

// Removes what is in the directory, without going into other file systems and without following
// links. What cannot be removed stays, and so does the directory with the inode number `kept` (0:
// none).
void remove_contents(int directory_fd, ino_t kept = 0);

}  // namespace kiln::agent
