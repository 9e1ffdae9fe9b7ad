// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include "base/error.h"
#include "base/unique_fd.h"
#include "oci/spec.h"

namespace kiln::agent {

struct Terminal {
  UniqueFd master;
  UniqueFd slave;
};

// A pty of the devpts that is mounted in the container, so that its name means something there; of
// the guest's without one. The caller's /proc is the guest's. The slave gets `owner`, as the
// caller's user namespace counts.
Result<Terminal> open_terminal(int root_fd, const oci::Process& process, uid_t owner);

// The slave as the container's /dev/console, made if it is missing.
Result<void> bind_console(int root_fd, int slave_fd);

// Makes it the terminal of the caller's new session.
Result<void> take_terminal(int slave_fd);

}  // namespace kiln::agent
