// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace kiln::runtime {

// `KILL`, `SIGKILL`, `kill` or `9`; also RTMIN+n and RTMAX-n. runc's words for what is none:
// `unknown signal "X"`.
Result<int> parse_signal(const std::string& text);

// What a program that stands for the container passes on to it. The rest keeps its meaning for the
// program itself: faults, SIGCHLD, SIGPIPE, stopping and terminal access.
std::vector<int> forwarded_signals();

}  // namespace kiln::runtime
