// SPDX-License-Identifier: Apache-2.0
// One stream between the guest and a Unix socket on the host: its credit, what waits to be written
// to the host, and how far each direction has been shut down.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "vmm/virtio/vsock/packet.h"

namespace kiln::vmm {

// Owned by a VsockDevice, on its thread. Knows nothing of queues. Numbers in packets are
// guest-controlled; counters wrap at 2^32 (virtio 1.2 §5.10.6.3).
class VsockConnection {
 public:
  // What the guest may send before it is told that some of it has gone on to the host; also the
  // most that we keep for a slow reader.
  static constexpr uint32_t kBufferSize = 256U << 10;

  enum class State {
    kRequested,    // the host's client waits for the guest's answer
    kEstablished,  //
    kLingering,    // gone for the guest; what it has sent still goes to the host
  };
  // Control packets that wait for room in the rx queue.
  enum Pending : unsigned {
    kRequest = 1,
    kResponse = 2,
    kCreditUpdate = 4,
    kCreditRequest = 8,
    kShutdown = 16,
  };

  VsockConnection(VsockPorts its_ports, UniqueFd its_socket, State its_state)
      : ports(its_ports), socket(std::move(its_socket)), state(its_state) {}

  // Guest → host. False when the guest has sent more than it may: it has broken the protocol.
  bool may_receive(uint32_t size) const { return size <= kBufferSize - (received_ - forwarded_); }
  // Writes as much as the host takes of `parts` (`size` bytes in all, already counted against the
  // credit); returns how many bytes that was. The caller hands the rest to keep().
  size_t write_to_host(std::span<const iovec> parts, uint32_t size);
  // Room for `size` bytes that the host would not take.
  std::span<std::byte> keep(size_t size);
  // Writes what was kept.
  void flush();
  size_t kept() const { return kept_.size() - kept_start_; }
  // The host reads no more: everything kept and everything to come is dropped.
  void drop_output();
  bool output_broken() const { return output_broken_; }

  // Host → guest. How many bytes the guest has room for.
  uint32_t credit() const;
  void sent(size_t size) { sent_ += static_cast<uint32_t>(size); }
  void learn_credit(const VsockHeader& header);

  // Fills in what every packet of this connection says.
  VsockHeader header(uint64_t guest_cid, uint16_t operation);
  // Whether the guest should be told of new room.
  bool owes_credit() const { return forwarded_ - announced_ >= kBufferSize / 2; }

  const VsockPorts ports;
  UniqueFd socket;
  State state;
  unsigned pending = 0;            // of enum Pending
  bool queued = false;             // among those with pending control packets
  bool waits_for_buffers = false;  // has data, or may have, but the rx queue is empty
  bool credit_requested = false;
  bool input_ended = false;         // the host has sent its last byte
  bool hung_up = false;             // the host has closed both directions
  bool output_ended = false;        // shutdown(SHUT_WR) done
  unsigned guest_shutdown = 0;      // VIRTIO_VSOCK_SHUTDOWN_*: what the guest has announced
  unsigned host_shutdown = 0;       // and what we have to announce, or have
  std::optional<uint32_t> watched;  // epoll events
  std::optional<EventLoop::TimerId> timer;

 private:
  void forwarded(size_t size) { forwarded_ += static_cast<uint32_t>(size); }

  uint32_t received_ = 0;   // from the guest
  uint32_t forwarded_ = 0;  // of that, has gone to the host: fwd_cnt
  uint32_t announced_ = 0;  // the fwd_cnt that the guest knows
  uint32_t sent_ = 0;
  uint32_t guest_forwarded_ = 0;
  uint32_t guest_buffer_ = 0;
  std::vector<std::byte> kept_;
  size_t kept_start_ = 0;
  bool output_broken_ = false;
};

}  // namespace kiln::vmm
