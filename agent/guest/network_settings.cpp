// SPDX-License-Identifier: Apache-2.0
#include "agent/guest/network_settings.h"

#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>

#include <algorithm>
#include <charconv>

#include "base/file.h"
#include "base/format.h"

namespace kiln::agent {
namespace {

using protocol::NetworkAddress;
using protocol::NetworkInterface;
using protocol::NetworkNeighbour;
using protocol::NetworkRoute;

constexpr uint16_t kAdd = NLM_F_ACK | NLM_F_CREATE;
constexpr uint16_t kRemove = NLM_F_ACK;

// Adding what is there and removing what has gone are no errors.
Result<void> tolerate(Result<void> outcome, std::initializer_list<int> errors) {
  if (!outcome &&
      std::find(errors.begin(), errors.end(), outcome.error().sys_errno) != errors.end())
    return {};
  return outcome;
}

ifinfomsg link_header(int index) {
  ifinfomsg header{};
  header.ifi_family = AF_UNSPEC;
  header.ifi_index = index;
  return header;
}

// `make` is one of the message makers below: (type, flags, index, object).
template <typename T, typename Make>
Result<void> add_one(NetlinkSocket& socket, uint16_t type, int index, const T& object,
                     const Make& make, uint16_t flags, const std::string& what) {
  return tolerate(socket.request(TRY(make(type, flags, index, object)), what), {EEXIST});
}

template <typename T, typename Make>
Result<void> remove_one(NetlinkSocket& socket, uint16_t type, int index, const T& object,
                        const Make& make, const std::string& what) {
  return tolerate(socket.request(TRY(make(type, kRemove, index, object)), what),
                  {ESRCH, ENOENT, EADDRNOTAVAIL, ENODEV});
}

// rtnetlink(7), RTM_NEWADDR.
Result<NetlinkMessage> address_message(uint16_t type, uint16_t flags, int index,
                                       const NetworkAddress& address) {
  const AddressBytes local = TRY(parse_ip(address.local));
  ifaddrmsg header{};
  header.ifa_family = static_cast<uint8_t>(family_of(local));
  header.ifa_prefixlen = static_cast<uint8_t>(address.prefix);
  header.ifa_scope = static_cast<uint8_t>(address.scope);
  header.ifa_index = static_cast<uint32_t>(index);
  NetlinkMessage message(type, flags, header);
  message.add(IFA_LOCAL, local);
  message.add(IFA_ADDRESS, address.peer.empty() ? local : TRY(parse_ip(address.peer)));
  if (!address.broadcast.empty()) message.add(IFA_BROADCAST, TRY(parse_ip(address.broadcast)));
  // The host has made sure that nobody else has it.
  uint32_t own_flags = header.ifa_family == AF_INET6 ? IFA_F_NODAD : 0;
  if (address.no_prefix_route) own_flags |= IFA_F_NOPREFIXROUTE;
  message.add_number(IFA_FLAGS, own_flags);
  return message;
}

struct Destination {
  AddressBytes address;
  uint8_t prefix = 0;
};

Result<Destination> parse_destination(const std::string& text) {
  const size_t slash = text.find('/');
  Destination out{TRY(parse_ip(text.substr(0, slash))), 0};
  const char* end = text.data() + text.size();
  const char* begin = slash == std::string::npos ? end : text.data() + slash + 1;
  const auto [parsed, failed] = std::from_chars(begin, end, out.prefix);
  if (failed != std::errc() || parsed != end || out.prefix > out.address.size() * 8)
    return invalid_argument(fmt::format("`{}` is no destination", text));
  return out;
}

// rtnetlink(7), RTM_NEWROUTE.
Result<NetlinkMessage> route_message(uint16_t type, uint16_t flags, int index,
                                     const NetworkRoute& route) {
  const Destination destination = TRY(parse_destination(route.destination));
  rtmsg header{};
  header.rtm_family = static_cast<uint8_t>(family_of(destination.address));
  header.rtm_dst_len = destination.prefix;
  if (route.table <= UINT8_MAX) header.rtm_table = static_cast<uint8_t>(route.table);
  header.rtm_protocol = RTPROT_STATIC;
  header.rtm_scope = static_cast<uint8_t>(route.scope);
  header.rtm_type = RTN_UNICAST;
  header.rtm_flags = route.on_link ? RTNH_F_ONLINK : 0;
  NetlinkMessage message(type, flags, header);
  if (destination.prefix != 0) message.add(RTA_DST, destination.address);
  message.add_number(RTA_TABLE, route.table);
  message.add_number(RTA_OIF, static_cast<uint32_t>(index));
  if (route.metric != 0) message.add_number(RTA_PRIORITY, route.metric);
  if (!route.gateway.empty()) message.add(RTA_GATEWAY, TRY(parse_ip(route.gateway)));
  if (!route.source.empty()) message.add(RTA_PREFSRC, TRY(parse_ip(route.source)));
  if (route.mtu != 0) {
    const size_t metrics = message.open(RTA_METRICS);
    message.add_number(RTAX_MTU, route.mtu);
    message.close(metrics);
  }
  return message;
}

// rtnetlink(7), RTM_NEWNEIGH.
Result<NetlinkMessage> neighbour_message(uint16_t type, uint16_t flags, int index,
                                         const NetworkNeighbour& neighbour) {
  const AddressBytes address = TRY(parse_ip(neighbour.address));
  ndmsg header{};
  header.ndm_family = static_cast<uint8_t>(family_of(address));
  header.ndm_ifindex = index;
  header.ndm_state = NUD_PERMANENT;
  NetlinkMessage message(type, flags, header);
  message.add(NDA_DST, address);
  message.add(NDA_LLADDR, TRY(parse_mac(neighbour.mac)));
  return message;
}

Result<void> add(NetlinkSocket& socket, int index, const NetworkAddress& address) {
  return add_one(socket, RTM_NEWADDR, index, address, address_message, kAdd,
                 fmt::format("add address {}", address.local));
}

Result<void> add(NetlinkSocket& socket, int index, const NetworkRoute& route) {
  return add_one(socket, RTM_NEWROUTE, index, route, route_message, kAdd | NLM_F_EXCL,
                 fmt::format("add route to {}", route.destination));
}

Result<void> add(NetlinkSocket& socket, int index, const NetworkNeighbour& neighbour) {
  return add_one(socket, RTM_NEWNEIGH, index, neighbour, neighbour_message, kAdd | NLM_F_REPLACE,
                 fmt::format("add neighbour {}", neighbour.address));
}

Result<void> remove(NetlinkSocket& socket, int index, const NetworkAddress& address) {
  return remove_one(socket, RTM_DELADDR, index, address, address_message,
                    fmt::format("remove address {}", address.local));
}

Result<void> remove(NetlinkSocket& socket, int index, const NetworkRoute& route) {
  return remove_one(socket, RTM_DELROUTE, index, route, route_message,
                    fmt::format("remove route to {}", route.destination));
}

Result<void> remove(NetlinkSocket& socket, int index, const NetworkNeighbour& neighbour) {
  return remove_one(socket, RTM_DELNEIGH, index, neighbour, neighbour_message,
                    fmt::format("remove neighbour {}", neighbour.address));
}

class FirstError {
 public:
  void take(Result<void> outcome) {
    if (!outcome && outcome_) outcome_ = std::move(outcome);
  }
  Result<void> result() && { return std::move(outcome_); }

 private:
  Result<void> outcome_;
};

template <typename T>
bool has(const std::vector<T>& list, const T& wanted) {
  return std::find(list.begin(), list.end(), wanted) != list.end();
}

// `renew`: those that are in both have been lost and are wanted again.
template <typename T>
void change_list(NetlinkSocket& socket, int index, const std::vector<T>& before,
                 const std::vector<T>& now, bool renew, FirstError& first) {
  for (const T& old : before) {
    if (!has(now, old)) first.take(remove(socket, index, old));
  }
  for (const T& wanted : now) {
    if (renew || !has(before, wanted)) first.take(add(socket, index, wanted));
  }
}

Result<void> set_up(NetlinkSocket& socket, int index, bool up) {
  ifinfomsg header = link_header(index);
  header.ifi_change = IFF_UP;
  header.ifi_flags = up ? IFF_UP : 0;
  return socket.request(NetlinkMessage(RTM_NEWLINK, NLM_F_ACK, header),
                        up ? "bring it up" : "take it down");
}

Result<void> set_link(NetlinkSocket& socket, int index, const NetworkInterface& before,
                      const NetworkInterface& now) {
  if (now.mac == before.mac && now.mtu == before.mtu) return {};
  NetlinkMessage message(RTM_NEWLINK, NLM_F_ACK, link_header(index));
  if (now.mac != before.mac) message.add(IFLA_ADDRESS, TRY(parse_mac(now.mac)));
  if (now.mtu != before.mtu) message.add_number(IFLA_MTU, now.mtu);
  return socket.request(std::move(message), "set hardware address and MTU");
}

void set_ipv6(const NetworkInterface& now) {
  const std::string directory = fmt::format("/proc/sys/net/ipv6/conf/{}", now.name);
  // A kernel without IPv6 has no such files. Link-local addresses are the host's to tell.
  static_cast<void>(write_file(directory + "/addr_gen_mode", "1"));
  static_cast<void>(write_file(directory + "/disable_ipv6", now.disable_ipv6 ? "1" : "0"));
}

Link link_of(std::span<const uint8_t> payload) {
  Link out;
  if (payload.size() < sizeof(ifinfomsg)) return out;
  const auto text = find_attribute(payload, sizeof(ifinfomsg), IFLA_IFNAME);
  const auto mtu = find_attribute(payload, sizeof(ifinfomsg), IFLA_MTU);
  out.index = reinterpret_cast<const ifinfomsg*>(payload.data())->ifi_index;
  if (!text.empty()) out.name = reinterpret_cast<const char*>(text.data());
  out.mac = mac_text(find_attribute(payload, sizeof(ifinfomsg), IFLA_ADDRESS));
  if (mtu.size() == sizeof out.mtu)
    std::copy(mtu.begin(), mtu.end(), reinterpret_cast<uint8_t*>(&out.mtu));
  return out;
}

}  // namespace

Result<std::vector<Link>> list_links(NetlinkSocket& socket) {
  std::vector<Link> out;
  TRY(socket.dump(NetlinkMessage(RTM_GETLINK, NLM_F_DUMP, link_header(0)), "list interfaces",
                  [&out](std::span<const uint8_t> payload) { out.push_back(link_of(payload)); }));
  return out;
}

Result<void> rename_link(NetlinkSocket& socket, int index, const std::string& name) {
  TRY(set_up(socket, index, false));
  NetlinkMessage message(RTM_NEWLINK, NLM_F_ACK, link_header(index));
  message.add_text(IFLA_IFNAME, name);
  return socket.request(std::move(message), fmt::format("name it `{}`", name));
}

Result<void> change_settings(NetlinkSocket& socket, int index, const NetworkInterface& before,
                             const NetworkInterface& now) {
  FirstError first;
  first.take(set_link(socket, index, before, now));
  set_ipv6(now);
  // An interface that goes down loses its routes, and IPv6 addresses with them.
  const bool renew = now.up && !before.up;
  if (now.up != before.up) first.take(set_up(socket, index, now.up));
  change_list(socket, index, before.addresses, now.addresses, renew, first);
  change_list(socket, index, before.neighbours, now.neighbours, renew, first);
  if (now.up) change_list(socket, index, before.routes, now.routes, renew, first);
  return wrap(std::move(first).result(), fmt::format("interface `{}`", now.name));
}

}  // namespace kiln::agent
