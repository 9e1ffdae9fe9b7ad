// SPDX-License-Identifier: Apache-2.0
// Network devices of the host that move into a container's network namespace (runtime-spec 1.3
// config-linux.md#network-devices).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "runtime/network/netlink.h"

namespace kiln::runtime {

// Those that have moved. They stay there when this goes: the life of a device is its namespace's.
// The calling thread comes back to its own namespace from each call.
class NetDevices {
 public:
  // `wanted`: name in namespace `from` → name in `to`; empty: the same. `%d` in it stands for the
  // first number that is free. The devices are up then, and have the addresses that somebody gave
  // them. All or none: after a failure they are where they were.
  static Result<NetDevices> move(const std::map<std::string, std::string>& wanted, int from,
                                 int to);
  // Undoes it, for a container that does not come to life. What cannot be undone is a warning.
  void give_back();

  std::vector<std::string> names() const;  // in the container

 private:
  struct Device {
    std::string name;
    std::string new_name;
    int index = 0;    // where it is
    bool up = false;  // where it came from
    std::vector<RtAddr> addresses;
  };
  // rtnetlink of a namespace.
  struct Place {
    UniqueFd fd;
    NlSocket socket;
  };
  NetDevices(Place from, Place to) : from_(std::move(from)), to_(std::move(to)) {}
  static Result<Place> open(int fd);
  // After a move.
  static Result<void> settle(const Place& place, const std::string& name, const Device& device,
                             bool up);
  Result<Device> inspect(const std::string& name, const std::string& wanted) const;
  Result<void> take(const std::string& name, const std::string& wanted);
  Result<void> give_back(const Device& device) const;

  Place from_;
  Place to_;
  std::vector<Device> moved_;
};

}  // namespace kiln::runtime
