// SPDX-License-Identifier: Apache-2.0
// The network of a sandbox, as the host has it and the guest gets it. Part of
// agent/protocol/messages.h, host → agent.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "agent/protocol/messages.h"

namespace kiln::protocol {

// Families are not said: an address has a colon or it has not.
struct NetworkAddress {
  std::string local;      // "10.88.0.5", "fd00::5"
  unsigned prefix = 0;    // bits
  std::string peer;       // of a point-to-point address; empty: none
  std::string broadcast;  // IPv4; empty: none
  uint32_t scope = 0;     // RT_SCOPE_*
  bool no_prefix_route = false;
  bool operator==(const NetworkAddress&) const = default;
};

struct NetworkRoute {
  std::string destination;  // "0.0.0.0/0", "fd00::/64"
  std::string gateway;      // empty: on the link
  std::string source;       // preferred; empty: the kernel's choice
  uint32_t metric = 0;
  uint32_t scope = 0;    // RT_SCOPE_*
  uint32_t table = 254;  // RT_TABLE_MAIN
  uint32_t mtu = 0;      // 0: the interface's
  bool on_link = false;  // RTNH_F_ONLINK
  bool operator==(const NetworkRoute&) const = default;
};

// A permanent entry.
struct NetworkNeighbour {
  std::string address;
  std::string mac;
  bool operator==(const NetworkNeighbour&) const = default;
};

struct NetworkInterface {
  std::string device_mac;  // of the device as the machine has it: what tells it from others
  std::string name;        // as the container sees it
  std::string mac;         // as the network sees it
  uint32_t mtu = 1500;
  bool up = true;
  bool disable_ipv6 = false;
  std::vector<NetworkAddress> addresses;
  std::vector<NetworkRoute> routes;
  std::vector<NetworkNeighbour> neighbours;
};

// Method "network": all interfaces that the guest is to have. What an earlier request named and
// this one does not is taken away; what a container added by itself stays. Result {}.
struct NetworkRequest {
  std::vector<NetworkInterface> interfaces;
};

constexpr size_t kMaxInterfaces = 32;

template <>
Json to_json<NetworkRequest>(const NetworkRequest&);
template <>
Result<NetworkRequest> from_json<NetworkRequest>(const Json&);

}  // namespace kiln::protocol
