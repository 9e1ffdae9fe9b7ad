// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/vsock/connection.h"

#include <sys/socket.h>

#include <algorithm>
#include <climits>

#include "base/file.h"

namespace kiln::vmm {

size_t VsockConnection::write_to_host(std::span<const iovec> parts, uint32_t size) {
  received_ += size;
  if (output_broken_) {
    forwarded(size);
    return size;
  }
  if (kept() != 0) return 0;  // in order
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(parts.data());
  message.msg_iovlen = std::min<size_t>(parts.size(), IOV_MAX);
  const ssize_t written =
      retry_eintr([&] { return sendmsg(socket.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT); });
  if (written < 0) {
    if (errno == EAGAIN || errno == ENOBUFS) return 0;
    drop_output();
    forwarded(size);
    return size;
  }
  forwarded(static_cast<size_t>(written));
  return static_cast<size_t>(written);
}

std::span<std::byte> VsockConnection::keep(size_t size) {
  if (kept_start_ != 0) {
    kept_.erase(kept_.begin(), kept_.begin() + static_cast<ptrdiff_t>(kept_start_));
    kept_start_ = 0;
  }
  const size_t old_size = kept_.size();
  kept_.resize(old_size + size);
  return std::span(kept_).subspan(old_size);
}

void VsockConnection::flush() {
  while (kept() != 0) {
    const ssize_t written = retry_eintr([&] {
      return send(socket.get(), kept_.data() + kept_start_, kept(), MSG_NOSIGNAL | MSG_DONTWAIT);
    });
    if (written < 0) {
      if (errno != EAGAIN && errno != ENOBUFS) drop_output();
      return;
    }
    forwarded(static_cast<size_t>(written));
    kept_start_ += static_cast<size_t>(written);
  }
  // Give the memory back: most connections need it once, in a burst.
  kept_ = {};
  kept_start_ = 0;
}

void VsockConnection::drop_output() {
  forwarded(kept());
  kept_ = {};
  kept_start_ = 0;
  output_broken_ = true;
}

uint32_t VsockConnection::credit() const {
  const uint32_t in_flight = sent_ - guest_forwarded_;
  return in_flight < guest_buffer_ ? guest_buffer_ - in_flight : 0;
}

void VsockConnection::learn_credit(const VsockHeader& header) {
  guest_buffer_ = header.buf_alloc;
  guest_forwarded_ = header.fwd_cnt;
  if (credit() != 0) credit_requested = false;
}

VsockHeader VsockConnection::header(uint64_t guest_cid, uint16_t operation) {
  VsockHeader header{};
  header.src_cid = kVsockHostCid;
  header.dst_cid = guest_cid;
  header.src_port = ports.host;
  header.dst_port = ports.guest;
  header.type = VIRTIO_VSOCK_TYPE_STREAM;
  header.op = operation;
  header.buf_alloc = kBufferSize;
  header.fwd_cnt = forwarded_;
  announced_ = forwarded_;
  return header;
}

}  // namespace kiln::vmm
