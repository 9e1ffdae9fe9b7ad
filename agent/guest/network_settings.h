// SPDX-License-Identifier: Apache-2.0
// From one wanted state of an interface to the next.
#pragma once

#include <string>
#include <vector>

#include "agent/guest/rtnetlink.h"
#include "agent/protocol/network.h"
#include "base/error.h"

namespace kiln::agent {

struct Link {
  int index = 0;
  std::string name;
  std::string mac;
  uint32_t mtu = 0;
};
Result<std::vector<Link>> list_links(NetlinkSocket& socket);

// Renames the interface, which must be down for it; it stays down.
Result<void> rename_link(NetlinkSocket& socket, int index, const std::string& name);

// Address, MTU, state, addresses, neighbours and routes of interface `index`, which is called
// `now.name` and was set to `before` by an earlier call. Goes on after a failure and returns the
// first.
Result<void> change_settings(NetlinkSocket& socket, int index,
                             const protocol::NetworkInterface& before,
                             const protocol::NetworkInterface& now);

}  // namespace kiln::agent
