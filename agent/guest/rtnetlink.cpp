// SPDX-License-Identifier: Apache-2.0
#include "agent/guest/rtnetlink.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/file.h"
#include "base/format.h"

namespace kiln::agent {
namespace {

constexpr size_t kReceiveBytes = 32 << 10;  // netlink(7): what a dump's messages need at most

template <typename T>
T read_at(std::span<const uint8_t> bytes, size_t offset) {
  T value{};
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

}  // namespace

Result<AddressBytes> parse_ip(const std::string& text) {
  const bool v6 = text.find(':') != std::string::npos;
  AddressBytes out(v6 ? sizeof(in6_addr) : sizeof(in_addr));
  if (inet_pton(v6 ? AF_INET6 : AF_INET, text.c_str(), out.data()) != 1)
    return invalid_argument(fmt::format("`{}` is no address", text));
  return out;
}

Result<AddressBytes> parse_mac(const std::string& text) {
  AddressBytes out;
  for (size_t i = 0; i + 1 < text.size(); i += 3) {
    const int high = hex_digit(text[i]);
    const int low = hex_digit(text[i + 1]);
    const bool ends = i + 2 == text.size() || text[i + 2] == ':';
    if (high < 0 || low < 0 || !ends) break;
    out.push_back(static_cast<uint8_t>(high << 4 | low));
  }
  if (out.size() != ETH_ALEN || text.size() != size_t{3} * ETH_ALEN - 1)
    return invalid_argument(fmt::format("`{}` is no hardware address", text));
  return out;
}

std::string mac_text(std::span<const uint8_t> bytes) {
  return fmt::format("{:02x}", fmt::join(bytes, ":"));
}

int family_of(const AddressBytes& address) {
  return address.size() == sizeof(in_addr) ? AF_INET : AF_INET6;
}

void NetlinkMessage::start(uint16_t type, uint16_t flags) {
  nlmsghdr header{};
  header.nlmsg_type = type;
  header.nlmsg_flags = static_cast<uint16_t>(flags | NLM_F_REQUEST);
  append(&header, sizeof header);
}

void NetlinkMessage::append(const void* data, size_t size) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  bytes_.insert(bytes_.end(), bytes, bytes + size);
  bytes_.resize(NLMSG_ALIGN(bytes_.size()));
}

void NetlinkMessage::add(uint16_t attribute, std::span<const uint8_t> value) {
  const nlattr header{static_cast<uint16_t>(NLA_HDRLEN + value.size()), attribute};
  append(&header, sizeof header);
  append(value.data(), value.size());
}

void NetlinkMessage::add_number(uint16_t attribute, uint32_t value) {
  std::array<uint8_t, sizeof value> bytes{};
  std::memcpy(bytes.data(), &value, sizeof value);
  add(attribute, bytes);
}

void NetlinkMessage::add_text(uint16_t attribute, std::string_view value) {
  std::vector<uint8_t> bytes(value.begin(), value.end());
  bytes.push_back(0);
  add(attribute, bytes);
}

size_t NetlinkMessage::open(uint16_t attribute) {
  const size_t at = bytes_.size();
  add(attribute, {});
  return at;
}

void NetlinkMessage::close(size_t opened) {
  const auto size = static_cast<uint16_t>(bytes_.size() - opened);
  std::memcpy(bytes_.data() + opened + offsetof(nlattr, nla_len), &size, sizeof size);
}

std::span<const uint8_t> NetlinkMessage::bytes() {
  const auto size = static_cast<uint32_t>(bytes_.size());
  std::memcpy(bytes_.data() + offsetof(nlmsghdr, nlmsg_len), &size, sizeof size);
  return bytes_;
}

void NetlinkMessage::set_sequence(uint32_t number) {
  std::memcpy(bytes_.data() + offsetof(nlmsghdr, nlmsg_seq), &number, sizeof number);
}

std::span<const uint8_t> find_attribute(std::span<const uint8_t> payload, size_t fixed,
                                        uint16_t type) {
  for (size_t at = NLMSG_ALIGN(fixed); at + sizeof(nlattr) <= payload.size();) {
    const auto header = read_at<nlattr>(payload, at);
    if (header.nla_len < sizeof header || at + header.nla_len > payload.size()) break;
    if ((header.nla_type & NLA_TYPE_MASK) == type)
      return payload.subspan(at + NLA_HDRLEN, header.nla_len - NLA_HDRLEN);
    at += NLA_ALIGN(header.nla_len);
  }
  return {};
}

Result<NetlinkSocket> NetlinkSocket::open() {
  UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!fd) return sys_error("open a netlink socket");
  return NetlinkSocket(std::move(fd));
}

Result<void> NetlinkSocket::request(NetlinkMessage message, const std::string& what) {
  return exchange(std::move(message), what, [](std::span<const uint8_t>) {});
}

Result<void> NetlinkSocket::dump(NetlinkMessage message, const std::string& what,
                                 const std::function<void(std::span<const uint8_t>)>& each) {
  return exchange(std::move(message), what, each);
}

Result<void> NetlinkSocket::exchange(NetlinkMessage message, const std::string& what,
                                     const std::function<void(std::span<const uint8_t>)>& each) {
  message.set_sequence(++sequence_);
  const auto sent = message.bytes();
  if (retry_eintr([&] { return send(fd_.get(), sent.data(), sent.size(), 0); }) < 0)
    return sys_error(what);
  std::vector<uint8_t> buffer(kReceiveBytes);
  while (true) {
    const ssize_t got =
        retry_eintr([&] { return recv(fd_.get(), buffer.data(), buffer.size(), 0); });
    if (got < 0) return sys_error(what);
    std::span<const uint8_t> rest(buffer.data(), static_cast<size_t>(got));
    while (rest.size() >= sizeof(nlmsghdr)) {
      const auto header = read_at<nlmsghdr>(rest, 0);
      if (header.nlmsg_len < sizeof header || header.nlmsg_len > rest.size()) break;
      const auto payload = rest.subspan(NLMSG_HDRLEN, header.nlmsg_len - NLMSG_HDRLEN);
      rest = rest.subspan(std::min<size_t>(NLMSG_ALIGN(header.nlmsg_len), rest.size()));
      if (header.nlmsg_seq != sequence_) continue;
      if (header.nlmsg_type == NLMSG_DONE) return {};
      if (header.nlmsg_type != NLMSG_ERROR) {
        each(payload);
        continue;
      }
      const int error = payload.size() >= sizeof(int) ? -read_at<int>(payload, 0) : EPROTO;
      if (error == 0) return {};
      return sys_error(what, error);
    }
  }
}

}  // namespace kiln::agent
