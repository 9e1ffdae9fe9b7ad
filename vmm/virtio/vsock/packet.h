// SPDX-License-Identifier: Apache-2.0
// Packets of the socket device (virtio 1.2 §5.10.6).
#pragma once

#include <linux/virtio_vsock.h>

#include <cstdint>

#include "vmm/memory/guest_memory.h"
#include "vmm/virtio/queue.h"

namespace kiln::vmm {

using VsockHeader = ::virtio_vsock_hdr;
static_assert(sizeof(VsockHeader) == 44);

constexpr uint64_t kVsockHostCid = 2;

// The two ends of a connection; the guest's and the host's context ids are constants.
struct VsockPorts {
  uint32_t host = 0;
  uint32_t guest = 0;
  uint64_t key() const { return (uint64_t{host} << 32) | guest; }
};

enum class VsockVerdict {
  kAccept,
  kDrop,    // says nothing that could be answered
  kRefuse,  // answered by RST
};

// Reads the header out of a chain of the tx queue and judges it. `header` is guest-controlled and,
// once accepted, has our addresses, a known operation and a `len` that the chain can hold.
VsockVerdict read_vsock_header(const GuestMemory& memory, const DescriptorChain& chain,
                               uint64_t guest_cid, VsockHeader& header);

}  // namespace kiln::vmm
