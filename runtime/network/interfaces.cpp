// SPDX-License-Identifier: Apache-2.0
#include "runtime/network/interfaces.h"

#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/if_arp.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>

#include <algorithm>
#include <map>

#include "base/file.h"
#include "base/format.h"
#include "runtime/network/netlink.h"

namespace kiln::runtime {
namespace {

using protocol::NetworkAddress;
using protocol::NetworkInterface;
using protocol::NetworkNeighbour;
using protocol::NetworkRoute;

// The kernel has no such file without IPv6.
bool has_ipv6_disabled(const std::string& name) {
  const auto value = read_file(fmt::format("/proc/sys/net/ipv6/conf/{}/disable_ipv6", name), 16);
  return !value || value->starts_with('1');
}

HostInterface from_link(rtnl_link* link) {
  HostInterface out;
  out.index = rtnl_link_get_ifindex(link);
  out.config.name = rtnl_link_get_name(link);
  out.config.mac = address_text(rtnl_link_get_addr(link));
  out.config.mtu = std::min(rtnl_link_get_mtu(link), 65535U);
  out.config.up = (rtnl_link_get_flags(link) & IFF_UP) != 0;
  out.config.disable_ipv6 = has_ipv6_disabled(out.config.name);
  return out;
}

NetworkAddress from_addr(rtnl_addr* addr) {
  NetworkAddress out;
  const nl_addr* local = rtnl_addr_get_local(addr);
  out.local = address_text(local);
  out.prefix = static_cast<unsigned>(rtnl_addr_get_prefixlen(addr));
  out.peer = address_text(rtnl_addr_get_peer(addr));
  if (out.peer == out.local) out.peer.clear();
  out.broadcast = address_text(rtnl_addr_get_broadcast(addr));
  out.scope = static_cast<uint32_t>(rtnl_addr_get_scope(addr));
  out.no_prefix_route = (rtnl_addr_get_flags(addr) & IFA_F_NOPREFIXROUTE) != 0;
  return out;
}

// Routes that the kernel makes by itself it makes in the guest too.
bool is_configured(rtnl_route* route) {
  return rtnl_route_get_type(route) == RTN_UNICAST &&
         rtnl_route_get_protocol(route) != RTPROT_KERNEL &&
         rtnl_route_get_protocol(route) != RTPROT_RA &&
         rtnl_route_get_table(route) != RT_TABLE_LOCAL && rtnl_route_get_nnexthops(route) > 0;
}

std::string destination_text(rtnl_route* route) {
  nl_addr* destination = rtnl_route_get_dst(route);
  const bool v6 = rtnl_route_get_family(route) == AF_INET6;
  if (destination == nullptr || nl_addr_get_len(destination) == 0) return v6 ? "::/0" : "0.0.0.0/0";
  return fmt::format("{}/{}", address_text(destination), nl_addr_get_prefixlen(destination));
}

NetworkRoute from_route(rtnl_route* route, rtnl_nexthop* hop) {
  NetworkRoute out;
  out.destination = destination_text(route);
  out.gateway = address_text(rtnl_route_nh_get_gateway(hop));
  out.source = address_text(rtnl_route_get_pref_src(route));
  out.metric = rtnl_route_get_priority(route);
  out.scope = rtnl_route_get_scope(route);
  out.table = rtnl_route_get_table(route);
  out.on_link = (rtnl_route_nh_get_flags(hop) & RTNH_F_ONLINK) != 0;
  unsigned mtu = 0;
  if (rtnl_route_get_metric(route, RTAX_MTU, &mtu) == 0) out.mtu = std::min(mtu, 65535U);
  return out;
}

// Those without a gateway first: they make the gateways of the others reachable.
void sort_routes(std::vector<NetworkRoute>& routes) {
  std::stable_sort(routes.begin(), routes.end(), [](const auto& a, const auto& b) {
    return a.gateway.empty() && !b.gateway.empty();
  });
}

using ByIndex = std::map<int, HostInterface>;

HostInterface* find(ByIndex& interfaces, int index) {
  const auto found = interfaces.find(index);
  return found == interfaces.end() ? nullptr : &found->second;
}

Result<void> add_addresses(nl_sock* socket, ByIndex& interfaces) {
  const NlCache cache = TRY(list_addresses(socket));
  for_each_object<rtnl_addr>(cache.get(), [&](rtnl_addr* addr) {
    HostInterface* interface = find(interfaces, rtnl_addr_get_ifindex(addr));
    if (interface != nullptr) interface->config.addresses.push_back(from_addr(addr));
  });
  return {};
}

Result<void> add_routes(nl_sock* socket, ByIndex& interfaces, std::vector<std::string>& warnings) {
  const NlCache cache = TRY(list_routes(socket));
  for_each_object<rtnl_route>(cache.get(), [&](rtnl_route* route) {
    if (!is_configured(route)) return;
    rtnl_nexthop* hop = rtnl_route_nexthop_n(route, 0);
    HostInterface* interface = find(interfaces, rtnl_route_nh_get_ifindex(hop));
    if (interface == nullptr) return;
    if (rtnl_route_get_nnexthops(route) > 1)
      warnings.push_back(fmt::format("route to {} has several next hops: only the first is used",
                                     destination_text(route)));
    interface->config.routes.push_back(from_route(route, hop));
  });
  return {};
}

Result<void> add_neighbours(nl_sock* socket, ByIndex& interfaces) {
  const NlCache cache = TRY(list_neighbours(socket));
  for_each_object<rtnl_neigh>(cache.get(), [&](rtnl_neigh* neigh) {
    HostInterface* interface = find(interfaces, rtnl_neigh_get_ifindex(neigh));
    if (interface == nullptr || (rtnl_neigh_get_state(neigh) & NUD_PERMANENT) == 0) return;
    NetworkNeighbour out{address_text(rtnl_neigh_get_dst(neigh)),
                         address_text(rtnl_neigh_get_lladdr(neigh))};
    if (!out.address.empty() && !out.mac.empty())
      interface->config.neighbours.push_back(std::move(out));
  });
  return {};
}

}  // namespace

bool fits_a_guest(rtnl_link* link) {
  if ((rtnl_link_get_flags(link) & IFF_LOOPBACK) != 0) return false;
  if (rtnl_link_get_arptype(link) != ARPHRD_ETHER) return false;
  const char* kind = rtnl_link_get_type(link);
  return kind == nullptr || std::string_view(kind) != "bridge";
}

Result<std::vector<HostInterface>> list_interfaces(nl_sock* socket, const std::set<int>& ours,
                                                   std::vector<std::string>& warnings) {
  const NlCache links = TRY(list_links(socket));
  ByIndex interfaces;
  for_each_object<rtnl_link>(links.get(), [&](rtnl_link* link) {
    if (fits_a_guest(link) && rtnl_link_get_master(link) == 0 &&
        !ours.contains(rtnl_link_get_ifindex(link)))
      interfaces.emplace(rtnl_link_get_ifindex(link), from_link(link));
  });
  std::vector<HostInterface> out;
  if (interfaces.empty()) return out;
  TRY(add_addresses(socket, interfaces));
  TRY(add_routes(socket, interfaces, warnings));
  TRY(add_neighbours(socket, interfaces));
  for (auto& [index, interface] : interfaces) {
    sort_routes(interface.config.routes);
    out.push_back(std::move(interface));
  }
  return out;
}

}  // namespace kiln::runtime
