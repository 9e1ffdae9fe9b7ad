// SPDX-License-Identifier: Apache-2.0
// What there is in a network namespace that a guest is to have.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "agent/protocol/network.h"
#include "base/error.h"

struct nl_sock;
struct rtnl_link;

namespace kiln::runtime {

struct HostInterface {
  int index = 0;
  protocol::NetworkInterface config;  // without device_mac
};

// Whether a machine can have it: Ethernet, and neither loopback nor a bridge.
bool fits_a_guest(rtnl_link* link);

// The interfaces of the namespace that `socket` and the calling thread are in, by index, with their
// addresses, routes and permanent neighbours. Left out: loopback, bridges and what is part of one,
// what has no Ethernet frames, and those in `ours` (indices). Routes of several hops are reduced to
// their first, which `warnings` says.
Result<std::vector<HostInterface>> list_interfaces(nl_sock* socket, const std::set<int>& ours,
                                                   std::vector<std::string>& warnings);

}  // namespace kiln::runtime
