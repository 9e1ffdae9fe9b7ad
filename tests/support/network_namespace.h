// SPDX-License-Identifier: Apache-2.0
// A network of one's own, for tests and benchmarks of what works on real interfaces.
#pragma once

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln {

// Moves the process, which must have one thread, into a user and a network namespace of its own,
// where it may do everything with interfaces. For good; once more does nothing.
inline Result<void> enter_network_namespace() {
  static bool entered = false;
  if (entered) return {};
  if (unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0)
    return sys_error("create user and network namespaces");
  entered = true;
  return {};
}

inline Result<void> set_link_up(const std::string& name, bool up) {
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  std::strncpy(request.ifr_name, name.c_str(), IFNAMSIZ - 1);
  if (ioctl(socket.get(), SIOCGIFFLAGS, &request) != 0)
    return sys_error("get an interface's flags");
  const int flags = up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP;
  request.ifr_flags = static_cast<short>(flags);
  if (ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0)
    return sys_error("set an interface's flags");
  return {};
}

// Even while somebody is attached to it.
inline Result<void> delete_link(const std::string& name) {
  struct {
    nlmsghdr header;
    ifinfomsg info;
  } request{};
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = RTM_DELLINK;
  request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  request.info.ifi_index = static_cast<int>(if_nametoindex(name.c_str()));
  const UniqueFd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (send(socket.get(), &request, sizeof request, 0) != sizeof request)
    return sys_error("send a netlink request");
  struct {
    nlmsghdr header;
    nlmsgerr error;
    char rest[512];
  } answer{};
  if (recv(socket.get(), &answer, sizeof answer, 0) < static_cast<ssize_t>(NLMSG_LENGTH(4)))
    return sys_error("receive a netlink answer");
  if (answer.error.error != 0) return sys_error("delete an interface", -answer.error.error);
  return {};
}

// A non-blocking packet socket on the interface: what it sends leaves through the interface, what
// it receives has come in by it. Frames have a virtio_net_hdr (10 bytes) in front.
inline Result<UniqueFd> packet_socket(const std::string& name) {
  UniqueFd socket(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return sys_error("create a packet socket");
  const int on = 1;
  const int buffer = 8 << 20;
  if (setsockopt(socket.get(), SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on) != 0)
    return sys_error("have headers on a packet socket");
  // As far as the host's limit allows.
  setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
  setsockopt(socket.get(), SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = static_cast<int>(if_nametoindex(name.c_str()));
  if (bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return sys_error("bind a packet socket");
  return socket;
}

}  // namespace kiln
