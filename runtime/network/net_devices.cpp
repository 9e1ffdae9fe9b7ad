// SPDX-License-Identifier: Apache-2.0
#include "runtime/network/net_devices.h"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <netlink/attr.h>
#include <netlink/errno.h>
#include <netlink/msg.h>

#include "base/format.h"
#include "base/log.h"
#include "runtime/network/interfaces.h"
#include "runtime/network/namespace.h"

namespace kiln::runtime {
namespace {

constexpr int kMostNumbers = 4096;  // that stand for `%d`

using NlMessage = std::unique_ptr<nl_msg, Release<nlmsg_free>>;

tl::unexpected<Error> no_memory() {
  return make_error(ErrorKind::kResourceExhausted, "allocate a netlink message");
}

// Null: there is none.
Result<RtLink> find_link(nl_sock* socket, int index, const std::string& name) {
  rtnl_link* link = nullptr;
  const int code =
      rtnl_link_get_kernel(socket, index, name.empty() ? nullptr : name.c_str(), &link);
  if (code == -NLE_OBJ_NOTFOUND || code == -NLE_NODEV) return RtLink();
  if (code < 0) return netlink_error(code, "look for it");
  return RtLink(link);
}

// The kernel would do the same (dev_alloc_name), and not say which it has taken.
Result<std::string> free_name(nl_sock* socket, const std::string& wanted) {
  const size_t at = wanted.find('%');
  if (at == std::string::npos) {
    if (TRY(find_link(socket, 0, wanted)))
      return make_error(
          ErrorKind::kAlreadyExists,
          fmt::format("the container's network namespace has a `{}` already", wanted));
    return wanted;
  }
  if (wanted.compare(at, 2, "%d") != 0 || wanted.find('%', at + 1) != std::string::npos)
    return invalid_argument(fmt::format("`{}`: a name may have one `%d`", wanted));
  for (int number = 0; number < kMostNumbers; ++number) {
    std::string name = fmt::format("{}{}{}", wanted.substr(0, at), number, wanted.substr(at + 2));
    if (name.size() >= IFNAMSIZ) break;
    if (!TRY(find_link(socket, 0, name))) return name;
  }
  return make_error(ErrorKind::kResourceExhausted,
                    fmt::format("no name is free that fits `{}`", wanted));
}

// What somebody has configured, and what means the same elsewhere; as runc.
Result<std::vector<RtAddr>> list_kept_addresses(nl_sock* socket, int index) {
  const NlCache cache = TRY(list_addresses(socket));
  std::vector<RtAddr> out;
  bool failed = false;
  for_each_object<rtnl_addr>(cache.get(), [&](rtnl_addr* addr) {
    if (rtnl_addr_get_ifindex(addr) != index || rtnl_addr_get_scope(addr) != RT_SCOPE_UNIVERSE ||
        (rtnl_addr_get_flags(addr) & IFA_F_PERMANENT) == 0)
      return;
    RtAddr kept(rtnl_addr_alloc());
    failed |= !kept || rtnl_addr_set_local(kept.get(), rtnl_addr_get_local(addr)) < 0;
    if (failed) return;
    rtnl_addr_set_prefixlen(kept.get(), rtnl_addr_get_prefixlen(addr));
    if (nl_addr* peer = rtnl_addr_get_peer(addr)) rtnl_addr_set_peer(kept.get(), peer);
    if (nl_addr* broadcast = rtnl_addr_get_broadcast(addr))
      rtnl_addr_set_broadcast(kept.get(), broadcast);
    if ((rtnl_addr_get_flags(addr) & IFA_F_NOPREFIXROUTE) != 0)
      rtnl_addr_set_flags(kept.get(), IFA_F_NOPREFIXROUTE);
    out.push_back(std::move(kept));
  });
  if (failed) return no_memory();
  return out;
}

// Both in one request: neither namespace needs to have room for the other's name. The kernel takes
// the device down.
Result<void> move_link(nl_sock* socket, int index, int target, const std::string& name) {
  const NlMessage message(nlmsg_alloc_simple(RTM_NEWLINK, 0));
  ifinfomsg header{};
  header.ifi_family = AF_UNSPEC;
  header.ifi_index = index;
  if (!message || nlmsg_append(message.get(), &header, sizeof header, NLMSG_ALIGNTO) < 0 ||
      nla_put_string(message.get(), IFLA_IFNAME, name.c_str()) < 0 ||
      nla_put_u32(message.get(), IFLA_NET_NS_FD, static_cast<uint32_t>(target)) < 0)
    return no_memory();
  int code = nl_send_auto(socket, message.get());
  if (code >= 0) code = nl_wait_for_ack(socket);
  if (code < 0) return netlink_error(code, "move it");
  return {};
}

}  // namespace

Result<NetDevices::Place> NetDevices::open(int fd) {
  const UniqueFd here = TRY(current_network_namespace());
  Place place;
  place.fd.reset(fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!place.fd) return sys_error("duplicate a network namespace");
  TRY(enter_network_namespace(fd));
  auto socket = open_netlink();
  TRY(enter_network_namespace(here.get()));
  place.socket = TRY(std::move(socket));
  return place;
}

Result<NetDevices> NetDevices::move(const std::map<std::string, std::string>& wanted, int from,
                                    int to) {
  NetDevices devices(TRY(open(from)), TRY(open(to)));
  for (const auto& [name, new_name] : wanted) {
    const auto taken = devices.take(name, new_name.empty() ? name : new_name);
    if (taken) continue;
    devices.give_back();
    return tl::unexpected(Error(taken.error()).wrap(fmt::format("network device `{}`", name)));
  }
  return devices;
}

Result<NetDevices::Device> NetDevices::inspect(const std::string& name,
                                               const std::string& wanted) const {
  const RtLink link = TRY(find_link(from_.socket.get(), 0, name));
  if (!link)
    return make_error(ErrorKind::kNotFound,
                      "there is no such device in the network namespace that kiln runs in");
  if (!fits_a_guest(link.get()))
    return make_error(ErrorKind::kUnimplemented,
                      "a VM can have Ethernet devices only, and no bridges");
  Device device;
  device.name = name;
  device.new_name = TRY(free_name(to_.socket.get(), wanted));
  device.index = rtnl_link_get_ifindex(link.get());
  device.up = (rtnl_link_get_flags(link.get()) & IFF_UP) != 0;
  device.addresses = TRY(list_kept_addresses(from_.socket.get(), device.index));
  return device;
}

Result<void> NetDevices::take(const std::string& name, const std::string& wanted) {
  Device device = TRY(inspect(name, wanted));
  auto moved = move_link(from_.socket.get(), device.index, to_.fd.get(), device.new_name);
  // Older kernels move first and rename then: the second half alone may fail.
  if (!moved && TRY(find_link(from_.socket.get(), device.index, "")))
    return tl::unexpected(std::move(moved.error()));
  const RtLink there = TRY(find_link(to_.socket.get(), 0, moved ? device.new_name : device.name));
  if (!there) return make_error(ErrorKind::kNotFound, "it has not arrived");
  device.index = rtnl_link_get_ifindex(there.get());
  moved_.push_back(std::move(device));
  TRY(std::move(moved));
  return settle(to_, moved_.back().new_name, moved_.back(), true);
}

Result<void> NetDevices::settle(const Place& place, const std::string& name, const Device& device,
                                bool up) {
  const RtLink link = TRY(find_link(place.socket.get(), 0, name));
  if (!link) return make_error(ErrorKind::kNotFound, "it has not arrived");
  for (const RtAddr& address : device.addresses) {
    rtnl_addr_set_ifindex(address.get(), rtnl_link_get_ifindex(link.get()));
    if (const int code = rtnl_addr_add(place.socket.get(), address.get(), 0); code < 0)
      return netlink_error(code, fmt::format("give it the address {}",
                                             address_text(rtnl_addr_get_local(address.get()))));
  }
  if (!up) return {};
  const RtLink changes(rtnl_link_alloc());
  if (!changes) return no_memory();
  rtnl_link_set_flags(changes.get(), IFF_UP);
  if (const int code = rtnl_link_change(place.socket.get(), link.get(), changes.get(), 0); code < 0)
    return netlink_error(code, "bring it up");
  return {};
}

Result<void> NetDevices::give_back(const Device& device) const {
  TRY(move_link(to_.socket.get(), device.index, from_.fd.get(), device.name));
  return settle(from_, device.name, device, device.up);
}

void NetDevices::give_back() {
  for (auto device = moved_.rbegin(); device != moved_.rend(); ++device) {
    if (const auto back = give_back(*device); !back)
      log_warning("give network device `{}` back: {}, ignoring", device->name,
                  back.error().message);
  }
  moved_.clear();
}

std::vector<std::string> NetDevices::names() const {
  std::vector<std::string> out;
  for (const Device& device : moved_) out.push_back(device.new_name);
  return out;
}

}  // namespace kiln::runtime
