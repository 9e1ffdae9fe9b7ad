// SPDX-License-Identifier: Apache-2.0
// The tap interface under a network device. Frames are read and written with a virtio_net_hdr_v1 in
// front of them.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::vmm {

// Attaches to the tap `name`, which is made where there is none: that needs CAP_NET_ADMIN, and it
// goes away with the descriptor. Prepared as prepare_tap() does.
Result<UniqueFd> open_tap(std::string_view name);

// Readies an attached tap: non-blocking, the header of virtio 1.2 in front of frames. Refuses what
// is no tap, or one that was attached without IFF_NO_PI or IFF_VNET_HDR.
Result<void> prepare_tap(int fd);

// What the host's network stack may leave to the reader of the tap: TUN_F_* of <linux/if_tun.h>.
Result<void> set_tap_offloads(int fd, unsigned offloads);

// The TUN_F_* that a driver with these features can take. A feature without the one that it
// requires (virtio 1.2 §5.1.3.1) does not count.
unsigned tap_offloads(uint64_t acked_features);

}  // namespace kiln::vmm
