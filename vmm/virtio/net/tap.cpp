// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/net/tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

#include <algorithm>

#include "base/file.h"
#include "base/format.h"
#include "vmm/virtio/net/frame.h"

namespace kiln::vmm {
namespace {

bool is_interface_name(std::string_view name) {
  // Longer ones would be cut, and the kernel would make a name of its own out of a `%d`.
  return !name.empty() && name.size() < IFNAMSIZ &&
         std::none_of(name.begin(), name.end(),
                      [](char c) { return c == '/' || c == '%' || c == ':' || c <= ' '; });
}

}  // namespace

Result<UniqueFd> open_tap(std::string_view name) {
  if (!is_interface_name(name))
    return invalid_argument(format("`{}` is not an interface's name", name));
  UniqueFd tap = TRY(open_file("/dev/net/tun", O_RDWR | O_NONBLOCK));
  ifreq request{};
  std::copy(name.begin(), name.end(), request.ifr_name);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  if (ioctl(tap.get(), TUNSETIFF, &request) != 0)
    return sys_error(format("attach to tap `{}`", name));
  TRY(prepare_tap(tap.get()));
  return tap;
}

Result<void> prepare_tap(int fd) {
  ifreq request{};
  if (ioctl(fd, TUNGETIFF, &request) != 0) return sys_error("ask a tap for its flags");
  const int flags = request.ifr_flags;
  if ((flags & TUN_TYPE_MASK) != IFF_TAP) return invalid_argument("interface is not a tap");
  if ((flags & IFF_NO_PI) == 0) return invalid_argument("tap was attached without IFF_NO_PI");
  if ((flags & IFF_VNET_HDR) == 0) return invalid_argument("tap was attached without IFF_VNET_HDR");
  // virtio 1.2 §5.1.6: with num_buffers, whether or not buffers are merged.
  const int header_size = sizeof(virtio_net_hdr_v1);
  if (ioctl(fd, TUNSETVNETHDRSZ, &header_size) != 0) return sys_error("set a tap's header size");
  const int status = fcntl(fd, F_GETFL);
  if (status < 0 || fcntl(fd, F_SETFL, status | O_NONBLOCK) != 0)
    return sys_error("set a tap non-blocking");
  return {};
}

Result<void> set_tap_offloads(int fd, unsigned offloads) {
  if (ioctl(fd, TUNSETOFFLOAD, static_cast<unsigned long>(offloads)) != 0)
    return sys_error("set a tap's offloads");
  return {};
}

unsigned tap_offloads(uint64_t acked_features) {
  const auto acked = [acked_features](unsigned bit) {
    return (acked_features & (uint64_t{1} << bit)) != 0;
  };
  if (!acked(VIRTIO_NET_F_GUEST_CSUM)) return 0;
  unsigned offloads = TUN_F_CSUM;
  if (acked(VIRTIO_NET_F_GUEST_TSO4)) offloads |= TUN_F_TSO4;
  if (acked(VIRTIO_NET_F_GUEST_TSO6)) offloads |= TUN_F_TSO6;
  if (acked(VIRTIO_NET_F_GUEST_UFO)) offloads |= TUN_F_UFO;
  if (acked(VIRTIO_NET_F_GUEST_ECN) && (offloads & (TUN_F_TSO4 | TUN_F_TSO6)) != 0)
    offloads |= TUN_F_TSO_ECN;
  return offloads;
}

}  // namespace kiln::vmm
