// SPDX-License-Identifier: Apache-2.0
// AF_VSOCK (vsock(7)) between the guest and its host.
#pragma once

#include <memory>

#include "agent/core/guest.h"
#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::agent {

// One attempt to reach the host; blocking for at most the kernel's two seconds.
Result<UniqueFd> dial_host(uint32_t port);
// The same without waiting: non-blocking, and writable once it is connected or has failed
// (getsockopt SO_ERROR).
Result<UniqueFd> begin_dial_host(uint32_t port);

// Takes connections of the host alone: containers can make vsock sockets too.
Result<std::unique_ptr<StreamListener>> listen_to_host(uint32_t port);

}  // namespace kiln::agent
