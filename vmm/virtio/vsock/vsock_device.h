// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "vmm/virtio/device.h"
#include "vmm/virtio/vsock/connection.h"
#include "vmm/virtio/vsock/packet.h"

namespace kiln::vmm {

struct VsockOptions {
  uint64_t guest_cid = 3;
  // A host's client connects here and says `CONNECT <port>\n`; the guest's connection to port P of
  // the host arrives at `<uds_path>_<P>`. Any length that the file system allows. In a confined VMM
  // it is a path in its own root (Confinement::kept), and the listener was bound before.
  std::string uds_path;
  UniqueFd listener;  // at uds_path already; without one the device binds it, and unlinks it again
};

// For a VMM that confines itself before it makes the device: binds the listener, and points
// `uds_path` at the place that the socket's directory is going to have in the empty root,
// /`place`/<name>. Returns the directory's path of now, for Confinement::kept. Whoever owns the
// directory removes the socket.
Result<std::string> open_vsock_paths(VsockOptions& options, const std::string& place);

// The socket device (virtio 1.2 §5.10) whose host side is Unix sockets, as Firecracker documents
// them. Runs wholly on the loop's thread. All that comes over the queues is guest-controlled: a
// guest can have kMaxConnections, each with a bounded buffer, and no more.
class VsockDevice : public VirtioDevice {
 public:
  static constexpr size_t kMaxConnections = 1024;

  static Result<std::unique_ptr<VsockDevice>> create(EventLoop& loop, VsockOptions options);
  ~VsockDevice() override;

  DeviceType type() const override { return DeviceType::kVsock; }
  uint64_t features() const override { return 0; }
  std::span<const uint16_t> queue_sizes() const override;
  void read_config(uint32_t offset, std::span<std::byte> out) const override;
  Result<void> activate(Activation activation) override;
  Result<void> process_queue(unsigned index) override;
  void reset() override;
  void suspend() override;
  // Requests are the guest's packets; bytes are those of streams, without headers.
  DeviceMetrics metrics() const override { return metrics_; }

  size_t connections() const { return connections_.size() + lingering_.size(); }

 private:
  enum QueueIndex : unsigned { kRx = 0, kTx = 1, kEvent = 2 };
  using Key = uint64_t;

  VsockDevice(EventLoop& loop, VsockOptions options);
  Queue* queue(QueueIndex index) const;

  // The host's side.
  void accept_client();
  void greet(int fd);
  void drop_client(int fd);
  Result<void> begin_request(UniqueFd socket, uint32_t guest_port);
  void handle_socket(Key key, uint32_t events);
  void handle_lingering(int fd);

  // The guest's side.
  Result<void> drain_tx(Queue& tx);
  Result<void> handle_packet(const VsockHeader& header, const DescriptorChain& chain);
  void handle_request(const VsockHeader& header);
  void handle_response(VsockConnection& connection);
  void handle_shutdown(VsockConnection& connection, uint32_t flags);
  Result<void> handle_data(VsockConnection& connection, const VsockHeader& header,
                           const DescriptorChain& chain);
  Result<void> fill_rx();
  Result<bool> send_control(VsockConnection& connection);
  Result<bool> take_buffer(Queue& rx);
  Result<bool> send_packet(const VsockHeader& header);
  Result<bool> send_data(VsockConnection& connection);
  void pump(VsockConnection& connection);
  void refuse(const VsockHeader& header);
  void signal_rx();
  void send_owed();

  // Both.
  void owe(VsockConnection& connection, unsigned pending);
  void announce_shutdown(VsockConnection& connection, unsigned flags);
  void watch(VsockConnection& connection);
  void end_output(VsockConnection& connection);
  // Gone for the guest; what it has sent still goes to the host.
  void remove(Key key);
  void break_rx(const Error& why);

  EventLoop& loop_;
  const uint64_t guest_cid_;
  const std::string uds_path_;
  UniqueFd listener_;
  bool bound_ = false;
  std::map<int, UniqueFd> clients_;  // that have not said yet which port they want
  std::map<Key, std::unique_ptr<VsockConnection>> connections_;
  std::map<int, std::unique_ptr<VsockConnection>> lingering_;
  std::vector<Key> owing_;           // connections with pending control packets, in order
  std::vector<VsockHeader> resets_;  // answers to packets of no connection
  uint32_t next_port_ = 1U << 30;    // for connections from the host
  Activation activation_;
  bool active_ = false;
  bool rx_broken_ = false;
  bool rx_used_ = false;  // buffers were pushed since the last signal_rx()
  DeviceMetrics metrics_;
  DescriptorChain chain_;  // scratch: its vectors keep their capacity
  std::vector<iovec> parts_;
};

}  // namespace kiln::vmm
