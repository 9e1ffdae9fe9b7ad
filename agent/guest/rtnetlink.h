// SPDX-License-Identifier: Apache-2.0
// As much of rtnetlink(7) as the agent needs: a fifth of a megabyte less than a library.
#pragma once

#include <linux/netlink.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::agent {

// An address of IPv4, IPv6 or Ethernet, in network byte order.
using AddressBytes = std::vector<uint8_t>;
Result<AddressBytes> parse_ip(const std::string& text);
Result<AddressBytes> parse_mac(const std::string& text);
std::string mac_text(std::span<const uint8_t> bytes);
int family_of(const AddressBytes& address);  // AF_INET, AF_INET6

// A request, put together from its fixed part and its attributes.
class NetlinkMessage {
 public:
  template <typename Fixed>
  NetlinkMessage(uint16_t type, uint16_t flags, const Fixed& fixed) {
    start(type, flags);
    append(&fixed, sizeof fixed);
  }
  void add(uint16_t attribute, std::span<const uint8_t> value);
  void add_number(uint16_t attribute, uint32_t value);
  void add_text(uint16_t attribute, std::string_view value);  // with its zero
  // What is added between the two is inside of `attribute`.
  size_t open(uint16_t attribute);
  void close(size_t opened);

  // With the length set.
  std::span<const uint8_t> bytes();
  void set_sequence(uint32_t number);

 private:
  void start(uint16_t type, uint16_t flags);
  void append(const void* data, size_t size);
  std::vector<uint8_t> bytes_;
};

// The attribute `type` among those behind the first `fixed` bytes of a message's payload; empty: it
// is not there.
std::span<const uint8_t> find_attribute(std::span<const uint8_t> payload, size_t fixed,
                                        uint16_t type);

// Blocking: the kernel answers at once.
class NetlinkSocket {
 public:
  static Result<NetlinkSocket> open();

  // Until the kernel has done it; the error's sys_errno is its answer.
  Result<void> request(NetlinkMessage message, const std::string& what);
  // `each` gets the payload of every answer.
  Result<void> dump(NetlinkMessage message, const std::string& what,
                    const std::function<void(std::span<const uint8_t>)>& each);

 private:
  explicit NetlinkSocket(UniqueFd fd) : fd_(std::move(fd)) {}
  Result<void> exchange(NetlinkMessage message, const std::string& what,
                        const std::function<void(std::span<const uint8_t>)>& each);
  UniqueFd fd_;
  uint32_t sequence_ = 0;
};

}  // namespace kiln::agent
