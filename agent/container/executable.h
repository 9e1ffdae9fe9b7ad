// SPDX-License-Identifier: Apache-2.0
// Which program a process runs, found as execvp(3) would; errors in runc's words, because engines
// search them for what to tell the user (exit status 126 or 127).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace kiln::agent {

// With a slash in `name`: that file, if it can be executed. Else the first match in PATH of
// `environment`. By the process itself: root, working directory and credentials count.
Result<std::string> find_executable(const std::string& name,
                                    const std::vector<std::string>& environment);

// execve(2). Returns only to report a failure.
Error execute(const std::string& path, const std::vector<std::string>& args,
              const std::vector<std::string>& environment);

// The value of the last `NAME=` of the list, which is what a program sees; null without one.
const char* environment_value(const std::vector<std::string>& environment, std::string_view name);

// What the program gets: each name once with its last value, and HOME if it is missing or empty.
std::vector<std::string> complete_environment(const std::vector<std::string>& environment,
                                              const std::string& home);

// The home directory of `uid` in the text of /etc/passwd; `/` if it is not there.
std::string home_directory(std::string_view passwd, uint32_t uid);

}  // namespace kiln::agent
