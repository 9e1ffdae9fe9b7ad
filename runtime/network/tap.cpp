// SPDX-License-Identifier: Apache-2.0
#include "runtime/network/tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netlink/route/act/mirred.h>
#include <netlink/route/cls/u32.h>
#include <netlink/route/tc.h>
#include <sys/ioctl.h>

#include <cstring>

#include "base/file.h"
#include "base/format.h"
#include "runtime/network/netlink.h"

namespace kiln::runtime {
namespace {

constexpr uint32_t kIngressHandle = TC_H_MAKE(TC_H_INGRESS, 0);
constexpr uint16_t kPriority = 1;

RtQdisc ingress_of(int interface) {
  RtQdisc qdisc(rtnl_qdisc_alloc());
  if (!qdisc) return qdisc;
  rtnl_tc* tc = TC_CAST(qdisc.get());
  rtnl_tc_set_ifindex(tc, interface);
  rtnl_tc_set_parent(tc, TC_H_INGRESS);
  rtnl_tc_set_handle(tc, kIngressHandle);
  rtnl_tc_set_kind(tc, "ingress");
  return qdisc;
}

tl::unexpected<Error> no_memory() {
  return make_error(ErrorKind::kResourceExhausted, "allocate a traffic control object");
}

// Everything that comes in at `from` goes out of `to`. u32 without a condition and mirred are what
// every kernel with traffic control has.
Result<void> redirect(nl_sock* socket, int from, int to) {
  const RtQdisc qdisc = ingress_of(from);
  const RtClassifier filter(rtnl_cls_alloc());
  RtAction action(rtnl_act_alloc());
  if (!qdisc || !filter || !action) return no_memory();
  if (const int code = rtnl_qdisc_add(socket, qdisc.get(), NLM_F_CREATE | NLM_F_EXCL); code < 0)
    return netlink_error(code, "add an ingress queue");
  rtnl_tc_set_kind(TC_CAST(action.get()), "mirred");
  rtnl_mirred_set_action(action.get(), TCA_EGRESS_REDIR);
  rtnl_mirred_set_policy(action.get(), TC_ACT_STOLEN);
  rtnl_mirred_set_ifindex(action.get(), static_cast<uint32_t>(to));
  rtnl_tc* tc = TC_CAST(filter.get());
  rtnl_tc_set_ifindex(tc, from);
  rtnl_tc_set_parent(tc, kIngressHandle);
  rtnl_tc_set_kind(tc, "u32");
  rtnl_cls_set_prio(filter.get(), kPriority);
  rtnl_cls_set_protocol(filter.get(), ETH_P_ALL);
  rtnl_u32_add_key_uint32(filter.get(), 0, 0, 0, 0);
  rtnl_u32_set_cls_terminal(filter.get());
  if (const int code = rtnl_u32_add_action(filter.get(), action.get()); code < 0)
    return netlink_error(code, "make a redirect");
  if (const int code = rtnl_cls_add(socket, filter.get(), NLM_F_CREATE | NLM_F_EXCL); code < 0) {
    static_cast<void>(unwire(socket, from));
    return netlink_error(code, "add a redirect");
  }
  return {};
}

Result<void> change(nl_sock* socket, int index, const RtLink& changes, const char* what) {
  const RtLink link(rtnl_link_alloc());
  if (!link || !changes) return make_error(ErrorKind::kResourceExhausted, "allocate a link");
  rtnl_link_set_ifindex(link.get(), index);
  if (const int code = rtnl_link_change(socket, link.get(), changes.get(), 0); code < 0)
    return netlink_error(code, what);
  return {};
}

}  // namespace

Result<Tap> make_tap(nl_sock* socket) {
  Tap tap;
  auto device = open_file("/dev/net/tun", O_RDWR | O_NONBLOCK);
  if (!device && device.error().sys_errno == ENOENT)
    device.error().message += ": is the kernel's module `tun` loaded?";
  tap.fd = TRY(std::move(device));
  ifreq request{};
  std::strcpy(static_cast<char*>(request.ifr_name), "kiln%d");
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  if (ioctl(tap.fd.get(), TUNSETIFF, &request) != 0) return sys_error("create a tap");
  tap.name = static_cast<const char*>(request.ifr_name);
  tap.index = static_cast<int>(if_nametoindex(tap.name.c_str()));
  if (tap.index == 0) return sys_error(fmt::format("find tap `{}`", tap.name));
  // Or it would speak to the guest by itself. A kernel without IPv6 has no such file.
  static_cast<void>(
      write_file(fmt::format("/proc/sys/net/ipv6/conf/{}/disable_ipv6", tap.name), "1"));
  const RtLink changes(rtnl_link_alloc());
  if (changes) rtnl_link_set_flags(changes.get(), IFF_UP);
  TRY(change(socket, tap.index, changes, "bring up a tap"));
  return tap;
}

Result<void> wire(nl_sock* socket, int interface, int tap) {
  TRY(redirect(socket, interface, tap));
  auto back = redirect(socket, tap, interface);
  if (!back) static_cast<void>(unwire(socket, interface));
  return back;
}

Result<void> unwire(nl_sock* socket, int interface) {
  const RtQdisc qdisc = ingress_of(interface);
  if (!qdisc) return no_memory();
  const int code = rtnl_qdisc_delete(socket, qdisc.get());
  if (code == 0 || code == -NLE_NODEV || code == -NLE_OBJ_NOTFOUND) return {};
  if (code == -NLE_INVAL)
    return {};  // a queue that was there once: it has kept its place, not its handle
  return netlink_error(code, "remove an ingress queue");
}

Result<void> set_mtu(nl_sock* socket, int index, uint32_t mtu) {
  const RtLink changes(rtnl_link_alloc());
  if (changes) rtnl_link_set_mtu(changes.get(), mtu);
  return change(socket, index, changes, "set an MTU");
}

}  // namespace kiln::runtime
