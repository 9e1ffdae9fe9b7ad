// SPDX-License-Identifier: Apache-2.0
// What both directions of a network device go by: the sizes of frames, and when to go on.
#pragma once

#include <linux/if_ether.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <vector>

// The header has a member that C++ cannot spell, in a structure of the control queue.
#ifdef __clang__
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wkeyword-macro"
#endif
#define class class_
#include <linux/virtio_net.h>
#undef class
#ifdef __clang__
#pragma clang diagnostic pop
#endif

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
inline constexpr uint64_t kBytesPerTurn = 512U << 10;

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

// Appends one more buffer for readv() or writev(), to the last one where they are neighbours: a
// driver cuts its buffers out of larger pieces, and every entry costs the kernel some time.
inline void append_joined(std::vector<iovec>& list, const iovec& next) {
  if (!list.empty() &&
      static_cast<std::byte*>(list.back().iov_base) + list.back().iov_len == next.iov_base) {
    list.back().iov_len += next.iov_len;
  } else {
    list.push_back(next);
  }
}

inline int64_t monotonic_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace kiln::vmm
