// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/vsock/packet.h"

namespace kiln::vmm {

VsockVerdict read_vsock_header(const GuestMemory& memory, const DescriptorChain& chain,
                               uint64_t guest_cid, VsockHeader& header) {
  if (chain.readable_size < sizeof header ||
      !memory.read_ranges(chain.readable, 0, std::as_writable_bytes(std::span(&header, 1))))
    return VsockVerdict::kDrop;
  // virtio 1.2 §5.10.6: the driver's source is always its own context id. To answer a forged one
  // would be to send to somebody else.
  if (header.src_cid != guest_cid) return VsockVerdict::kDrop;
  // Never answer RST by RST.
  const auto refuse =
      header.op == VIRTIO_VSOCK_OP_RST ? VsockVerdict::kDrop : VsockVerdict::kRefuse;
  if (header.dst_cid != kVsockHostCid) return refuse;
  // §5.10.6.4.1: an unknown type is answered by RST. SEQPACKET was not offered.
  if (header.type != VIRTIO_VSOCK_TYPE_STREAM) return refuse;
  if (header.op == VIRTIO_VSOCK_OP_INVALID || header.op > VIRTIO_VSOCK_OP_CREDIT_REQUEST)
    return refuse;
  if (header.len > chain.readable_size - sizeof header) return refuse;
  // Only RW has a payload.
  if (header.len != 0 && header.op != VIRTIO_VSOCK_OP_RW) return refuse;
  return VsockVerdict::kAccept;
}

}  // namespace kiln::vmm
