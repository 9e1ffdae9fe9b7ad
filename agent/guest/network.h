// SPDX-License-Identifier: Apache-2.0
// The guest's network, as the host wants it: over rtnetlink.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "agent/guest/network_devices.h"
#include "agent/guest/rtnetlink.h"
#include "agent/protocol/network.h"
#include "base/error.h"

namespace kiln::agent {

// Every call is idempotent, and changes only what it set itself or is told to set.
class GuestNetwork {
 public:
  explicit GuestNetwork(NetworkDevices devices) : devices_(std::move(devices)) {}

  // Goes on after a failure of one thing and returns the first; the network drivers are there.
  Result<void> apply(const protocol::NetworkRequest& request);

 private:
  struct Known {
    int index = 0;
    protocol::NetworkInterface config;
  };
  Result<void> drop_unwanted(const protocol::NetworkRequest& request);
  Result<void> find_new(const protocol::NetworkRequest& request);
  Result<bool> adopt_new(const protocol::NetworkRequest& request);
  Result<void> hide_spare();
  Result<void> rename_all(const protocol::NetworkRequest& request);

  NetworkDevices devices_;
  std::optional<NetlinkSocket> socket_;
  std::map<std::string, Known> known_;  // by the device's address
};

}  // namespace kiln::agent
