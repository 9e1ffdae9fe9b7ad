// SPDX-License-Identifier: Apache-2.0
// The taps through which a machine reaches the interfaces of a network namespace, and the wires
// between the two: every frame that comes in at one leaves by the other (tc's mirred redirect).
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"
#include "base/unique_fd.h"

struct nl_sock;

namespace kiln::runtime {

// Gone with the last copy of its descriptor.
struct Tap {
  UniqueFd fd;  // IFF_NO_PI | IFF_VNET_HDR, as vmm::NetworkInterfaceConfig wants it
  int index = 0;
  std::string name;
};

// In the calling thread's namespace; up, and without IPv6 of its own.
Result<Tap> make_tap(nl_sock* socket);

// From `interface` to the tap and back. kAlreadyExists: somebody else takes what comes in there.
Result<void> wire(nl_sock* socket, int interface, int tap);
// Leaves the interface as it was; one that has gone is no error.
Result<void> unwire(nl_sock* socket, int interface);

Result<void> set_mtu(nl_sock* socket, int index, uint32_t mtu);

}  // namespace kiln::runtime
