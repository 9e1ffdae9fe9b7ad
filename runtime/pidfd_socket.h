// SPDX-License-Identifier: Apache-2.0
// --pidfd-socket: a descriptor of the process that stands for the container's, over a Unix socket.
#pragma once

#include <string>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::runtime {

// Sends `pidfd` as runc does: one message that says what it is of, `standard` (a container) or
// `setns` (a process of exec), with the descriptor attached.
Result<void> send_pidfd(int socket, const std::string& what, int pidfd);

// Of a child or of this process, whose number cannot be another's.
Result<UniqueFd> open_pidfd(pid_t pid);

}  // namespace kiln::runtime
