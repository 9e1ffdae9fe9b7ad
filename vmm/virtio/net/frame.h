// SPDX-License-Identifier: Apache-2.0
// What both directions of a network device go by: the sizes of frames, and when to go on.
#pragma once

#include <linux/if_ether.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_types.h>

#include <cstddef>
#include <cstdint>
#include <ctime>

// The header has a member that C++ cannot spell, in a structure of the control queue.
#define class class_
#include <linux/virtio_net.h>
#undef class

namespace kiln::vmm {

inline constexpr uint32_t kNetHeaderSize = sizeof(virtio_net_hdr_v1);
static_assert(kNetHeaderSize == 12);

inline constexpr uint32_t kSmallestFrame = ETH_HLEN;
// virtio 1.2 §5.1.6.3.1: what a driver's buffer for an unsegmented packet is made for, 65550 bytes.
// The kernel's own limit is 64 KiB of packet (GSO_LEGACY_MAX_SIZE) behind an Ethernet header with a
// VLAN tag, four bytes more.
inline constexpr uint32_t kLargestFrame = 65536 + ETH_HLEN + 4;

// One direction works until it must wait, or has had its share of the loop.
inline constexpr unsigned kFramesPerTurn = 64;
inline constexpr uint64_t kBytesPerTurn = 1U << 20;

// How a turn ended.
struct NetTurn {
  enum class Next {
    kWait,          // for the driver, or for the tap to have a frame
    kAgain,         // after the other devices of the loop
    kLater,         // in delay_ns
    kWaitWritable,  // until the tap takes frames again
  };
  Next next = Next::kWait;
  int64_t delay_ns = 0;
};

inline int64_t monotonic_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace kiln::vmm
