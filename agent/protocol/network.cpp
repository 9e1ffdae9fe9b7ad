// SPDX-License-Identifier: Apache-2.0
#include "agent/protocol/network.h"

#include "agent/protocol/fields.h"
#include "base/format.h"

namespace kiln::protocol {
namespace {

constexpr size_t kMaxListed = 4096;  // addresses, routes or neighbours of one interface
constexpr size_t kMaxAddress = 64;   // INET6_ADDRSTRLEN and a prefix
constexpr size_t kMacSize = 17;      // xx:xx:xx:xx:xx:xx
constexpr size_t kMaxName = 15;      // IFNAMSIZ with its zero
constexpr int64_t kMaxPrefix = 128;
constexpr int64_t kMaxMtu = 65535;

// An object of each element of the array `key`, by `read`.
template <typename T, typename Read>
Result<std::vector<T>> list_of(Fields& parent, std::string_view key, size_t most,
                               const Read& read) {
  const Json* array = TRY(parent.array(key));
  if (array->size() > most)
    return invalid_argument(
        fmt::format("{}: must have at most {} entries", parent.pointer_to(key), most));
  std::vector<T> out;
  out.reserve(array->size());
  for (const Json& element : *array) {
    Fields fields =
        TRY(Fields::of(element, fmt::format("{}/{}", parent.pointer_to(key), out.size())));
    T taken = TRY(read(fields));
    TRY(fields.finish());
    out.push_back(std::move(taken));
  }
  return out;
}

Result<uint32_t> number(Fields& fields, std::string_view key, int64_t most, int64_t fallback) {
  const int64_t value = TRY(fields.integer_or(key, 0, most, fallback));
  return static_cast<uint32_t>(value);
}

Result<NetworkAddress> address_from(Fields& fields) {
  NetworkAddress out;
  out.local = TRY(fields.text("local", kMaxAddress));
  out.prefix = TRY(number(fields, "prefix", kMaxPrefix, 0));
  out.peer = TRY(fields.text_or_empty("peer", kMaxAddress));
  out.broadcast = TRY(fields.text_or_empty("broadcast", kMaxAddress));
  out.scope = TRY(number(fields, "scope", UINT8_MAX, 0));
  out.no_prefix_route = TRY(fields.boolean_or("noPrefixRoute", false));
  return out;
}

Json to_object(const NetworkAddress& address) {
  return {{"local", address.local}, {"prefix", address.prefix},
          {"peer", address.peer},   {"broadcast", address.broadcast},
          {"scope", address.scope}, {"noPrefixRoute", address.no_prefix_route}};
}

Result<NetworkRoute> route_from(Fields& fields) {
  NetworkRoute out;
  out.destination = TRY(fields.text("destination", kMaxAddress));
  out.gateway = TRY(fields.text_or_empty("gateway", kMaxAddress));
  out.source = TRY(fields.text_or_empty("source", kMaxAddress));
  out.metric = TRY(number(fields, "metric", UINT32_MAX, 0));
  out.scope = TRY(number(fields, "scope", UINT8_MAX, 0));
  out.table = TRY(number(fields, "table", UINT32_MAX, 254));
  out.mtu = TRY(number(fields, "mtu", kMaxMtu, 0));
  out.on_link = TRY(fields.boolean_or("onLink", false));
  return out;
}

Json to_object(const NetworkRoute& route) {
  return {{"destination", route.destination},
          {"gateway", route.gateway},
          {"source", route.source},
          {"metric", route.metric},
          {"scope", route.scope},
          {"table", route.table},
          {"mtu", route.mtu},
          {"onLink", route.on_link}};
}

Result<NetworkNeighbour> neighbour_from(Fields& fields) {
  NetworkNeighbour out;
  out.address = TRY(fields.text("address", kMaxAddress));
  out.mac = TRY(fields.text("mac", kMacSize));
  return out;
}

Json to_object(const NetworkNeighbour& neighbour) {
  return {{"address", neighbour.address}, {"mac", neighbour.mac}};
}

Json to_object(const NetworkInterface& interface);

template <typename T>
Json to_array(const std::vector<T>& list) {
  Json out = Json::array();
  for (const T& element : list) out.push_back(to_object(element));
  return out;
}

Json to_object(const NetworkInterface& interface) {
  return {{"deviceMac", interface.device_mac},
          {"name", interface.name},
          {"mac", interface.mac},
          {"mtu", interface.mtu},
          {"up", interface.up},
          {"disableIpv6", interface.disable_ipv6},
          {"addresses", to_array(interface.addresses)},
          {"routes", to_array(interface.routes)},
          {"neighbours", to_array(interface.neighbours)}};
}

Result<NetworkInterface> interface_from(Fields& fields) {
  NetworkInterface out;
  out.device_mac = TRY(fields.text("deviceMac", kMacSize));
  out.name = TRY(fields.entry("name"));
  if (out.name.size() > kMaxName)
    return invalid_argument(
        fmt::format("{}: must have at most {} bytes", fields.pointer_to("name"), kMaxName));
  out.mac = TRY(fields.text("mac", kMacSize));
  out.mtu = TRY(number(fields, "mtu", kMaxMtu, 1500));
  out.up = TRY(fields.boolean_or("up", true));
  out.disable_ipv6 = TRY(fields.boolean_or("disableIpv6", false));
  out.addresses = TRY(list_of<NetworkAddress>(fields, "addresses", kMaxListed, address_from));
  out.routes = TRY(list_of<NetworkRoute>(fields, "routes", kMaxListed, route_from));
  out.neighbours = TRY(list_of<NetworkNeighbour>(fields, "neighbours", kMaxListed, neighbour_from));
  return out;
}

}  // namespace

template <>
Json to_json(const NetworkRequest& request) {
  return {{"interfaces", to_array(request.interfaces)}};
}

template <>
Result<NetworkRequest> from_json(const Json& value) {
  NetworkRequest request;
  Fields fields = TRY(Fields::of(value, ""));
  request.interfaces =
      TRY(list_of<NetworkInterface>(fields, "interfaces", kMaxInterfaces, interface_from));
  TRY(fields.finish());
  return request;
}

}  // namespace kiln::protocol
