// SPDX-License-Identifier: Apache-2.0
// libnl objects with owners, and its errors as ours.
#pragma once

#include <netlink/cache.h>
#include <netlink/netlink.h>
#include <netlink/route/action.h>
#include <netlink/route/addr.h>
#include <netlink/route/classifier.h>
#include <netlink/route/link.h>
#include <netlink/route/neighbour.h>
#include <netlink/route/qdisc.h>
#include <netlink/route/route.h>

#include <memory>
#include <string>

#include "base/error.h"

namespace kiln::runtime {

template <auto Function>
struct Release {
  template <typename T>
  void operator()(T* object) const {
    Function(object);
  }
};

using NlSocket = std::unique_ptr<nl_sock, Release<nl_socket_free>>;
using NlCache = std::unique_ptr<nl_cache, Release<nl_cache_free>>;
using NlAddress = std::unique_ptr<nl_addr, Release<nl_addr_put>>;
using RtLink = std::unique_ptr<rtnl_link, Release<rtnl_link_put>>;
using RtAddr = std::unique_ptr<rtnl_addr, Release<rtnl_addr_put>>;
using RtRoute = std::unique_ptr<rtnl_route, Release<rtnl_route_put>>;
using RtNeigh = std::unique_ptr<rtnl_neigh, Release<rtnl_neigh_put>>;
using RtQdisc = std::unique_ptr<rtnl_qdisc, Release<rtnl_qdisc_put>>;
using RtClassifier = std::unique_ptr<rtnl_cls, Release<rtnl_cls_put>>;
using RtAction = std::unique_ptr<rtnl_act, Release<rtnl_act_put>>;

// Of what libnl returned, a negative NLE_*.
tl::unexpected<Error> netlink_error(int code, std::string what);

// Connected to rtnetlink of the network namespace that the calling thread is in, which it keeps.
Result<NlSocket> open_netlink();

// All links, addresses, routes or neighbours of that namespace.
Result<NlCache> list_links(nl_sock* socket);
Result<NlCache> list_addresses(nl_sock* socket);
Result<NlCache> list_routes(nl_sock* socket);
Result<NlCache> list_neighbours(nl_sock* socket);

// "10.0.0.1", "10.0.0.0/8", "fd00::1", "default" or a hardware address; `family` AF_UNSPEC:
// guessed.
Result<NlAddress> parse_address(const std::string& text, int family);
// Without a prefix; empty for null.
std::string address_text(const nl_addr* address);

// Calls `each(T*)` for the objects of a cache.
template <typename T, typename Each>
void for_each_object(nl_cache* cache, const Each& each) {
  for (nl_object* object = nl_cache_get_first(cache); object != nullptr;
       object = nl_cache_get_next(object))
    each(reinterpret_cast<T*>(object));
}

}  // namespace kiln::runtime
