// SPDX-License-Identifier: Apache-2.0
#include "runtime/network/netlink.h"

#include <netlink/errno.h>

#include <array>

#include "base/format.h"

namespace kiln::runtime {
namespace {

constexpr int kReceiveBytes = 1 << 20;  // of a dump's socket buffer

ErrorKind kind_of(int code) {
  switch (code) {
    case NLE_EXIST:
      return ErrorKind::kAlreadyExists;
    case NLE_OBJ_NOTFOUND:
    case NLE_NODEV:
    case NLE_NOADDR:
      return ErrorKind::kNotFound;
    case NLE_PERM:
    case NLE_NOACCESS:
      return ErrorKind::kPermissionDenied;
    case NLE_INVAL:
      return ErrorKind::kInvalidArgument;
    default:
      return ErrorKind::kUnknown;
  }
}

using AllocateCache = int (*)(nl_sock*, nl_cache**);

Result<NlCache> list(nl_sock* socket, AllocateCache allocate, const char* what) {
  nl_cache* cache = nullptr;
  if (const int code = allocate(socket, &cache); code < 0)
    return netlink_error(code, fmt::format("list {}", what));
  return NlCache(cache);
}

}  // namespace

tl::unexpected<Error> netlink_error(int code, std::string what) {
  const int positive = code < 0 ? -code : code;
  return make_error(kind_of(positive), fmt::format("{}: {}", what, nl_geterror(positive)));
}

Result<NlSocket> open_netlink() {
  NlSocket socket(nl_socket_alloc());
  if (!socket) return make_error(ErrorKind::kResourceExhausted, "allocate a netlink socket");
  if (const int code = nl_connect(socket.get(), NETLINK_ROUTE); code < 0)
    return netlink_error(code, "open a netlink socket");
  // An older kernel's limit is not ours to judge.
  static_cast<void>(nl_socket_set_buffer_size(socket.get(), kReceiveBytes, 0));
  return socket;
}

Result<NlCache> list_links(nl_sock* socket) {
  return list(
      socket, [](nl_sock* s, nl_cache** c) { return rtnl_link_alloc_cache(s, AF_UNSPEC, c); },
      "interfaces");
}

Result<NlCache> list_addresses(nl_sock* socket) {
  return list(socket, rtnl_addr_alloc_cache, "addresses");
}

Result<NlCache> list_routes(nl_sock* socket) {
  return list(
      socket, [](nl_sock* s, nl_cache** c) { return rtnl_route_alloc_cache(s, AF_UNSPEC, 0, c); },
      "routes");
}

Result<NlCache> list_neighbours(nl_sock* socket) {
  return list(socket, rtnl_neigh_alloc_cache, "neighbours");
}

Result<NlAddress> parse_address(const std::string& text, int family) {
  nl_addr* address = nullptr;
  if (const int code = nl_addr_parse(text.c_str(), family, &address); code < 0)
    return netlink_error(code, fmt::format("read address `{}`", text));
  return NlAddress(address);
}

std::string address_text(const nl_addr* address) {
  if (address == nullptr) return {};
  std::array<char, 128> buffer{};
  std::string text = nl_addr2str(const_cast<nl_addr*>(address), buffer.data(), buffer.size());
  text.resize(std::min(text.size(), text.find('/')));
  return text;
}

}  // namespace kiln::runtime
