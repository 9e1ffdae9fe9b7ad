// SPDX-License-Identifier: Apache-2.0
#include "agent/guest/network.h"

#include <algorithm>
#include <set>

#include "agent/guest/network_settings.h"
#include "base/format.h"

namespace kiln::agent {
namespace {

using protocol::NetworkInterface;
using protocol::NetworkRequest;

const NetworkInterface* find_in(const NetworkRequest& request, const std::string& device_mac) {
  const auto found = std::find_if(
      request.interfaces.begin(), request.interfaces.end(),
      [&](const NetworkInterface& interface) { return interface.device_mac == device_mac; });
  return found == request.interfaces.end() ? nullptr : &*found;
}

Result<std::string> name_of(NetlinkSocket& socket, int index) {
  for (const Link& link : TRY(list_links(socket)))
    if (link.index == index) return link.name;
  return std::string();
}

}  // namespace

// Their interfaces vanish; the device is free for another one.
Result<void> GuestNetwork::drop_unwanted(const NetworkRequest& request) {
  Result<void> outcome;
  for (auto known = known_.begin(); known != known_.end();) {
    if (find_in(request, known->first) != nullptr) {
      ++known;
      continue;
    }
    const std::string name = TRY(name_of(*socket_, known->second.index));
    if (!name.empty()) {
      if (auto unbound = devices_.unbind(name); !unbound && outcome) outcome = std::move(unbound);
    }
    known = known_.erase(known);
  }
  return outcome;
}

// False: some are not there.
Result<bool> GuestNetwork::adopt_new(const NetworkRequest& request) {
  for (const Link& link : TRY(list_links(*socket_))) {
    if (known_.contains(link.mac) || find_in(request, link.mac) == nullptr) continue;
    Known known{link.index, {}};
    known.config.device_mac = link.mac;
    known.config.name = link.name;
    known.config.mac = link.mac;
    known.config.mtu = link.mtu;
    known.config.up = false;
    known_.emplace(link.mac, std::move(known));
  }
  return std::all_of(
      request.interfaces.begin(), request.interfaces.end(),
      [&](const NetworkInterface& interface) { return known_.contains(interface.device_mac); });
}

Result<void> GuestNetwork::find_new(const NetworkRequest& request) {
  if (TRY(adopt_new(request))) return {};
  devices_.bind_all();
  if (TRY(adopt_new(request))) return {};
  return make_error(ErrorKind::kNotFound, "the machine does not have all the network devices");
}

Result<void> GuestNetwork::hide_spare() {
  std::set<int> wanted;
  for (const auto& [mac, known] : known_) wanted.insert(known.index);
  Result<void> outcome;
  for (const Link& link : TRY(list_links(*socket_))) {
    if (wanted.contains(link.index) || !devices_.is_device(link.name)) continue;
    if (auto unbound = devices_.unbind(link.name); !unbound && outcome)
      outcome = std::move(unbound);
  }
  return outcome;
}

// By way of names that nobody has: two of them may have each other's.
Result<void> GuestNetwork::rename_all(const NetworkRequest& request) {
  std::vector<std::pair<Known*, std::string>> renamed;
  for (const NetworkInterface& interface : request.interfaces) {
    const auto found = known_.find(interface.device_mac);
    if (found == known_.end() || found->second.config.name == interface.name) continue;
    Known& known = found->second;
    TRY(rename_link(*socket_, known.index, fmt::format("kiln-{}", known.index)));
    known.config.up = false;
    renamed.emplace_back(&known, interface.name);
  }
  for (const auto& [known, name] : renamed) {
    TRY(wrap(rename_link(*socket_, known->index, name), fmt::format("name `{}`", name)));
    known->config.name = name;
  }
  return {};
}

Result<void> GuestNetwork::apply(const NetworkRequest& request) {
  if (!socket_) socket_ = TRY(NetlinkSocket::open());
  Result<void> outcome = drop_unwanted(request);
  const auto keep = [&outcome](Result<void> next) {
    if (!next && outcome) outcome = std::move(next);
  };
  keep(find_new(request));
  keep(hide_spare());
  keep(rename_all(request));
  for (const NetworkInterface& interface : request.interfaces) {
    const auto found = known_.find(interface.device_mac);
    if (found == known_.end()) continue;
    Known& known = found->second;
    keep(change_settings(*socket_, known.index, known.config, interface));
    known.config = interface;
  }
  return outcome;
}

}  // namespace kiln::agent
