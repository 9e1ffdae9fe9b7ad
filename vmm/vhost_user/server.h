// SPDX-License-Identifier: Apache-2.0
// The back-end of a vhost-user device: hosts one VirtioDevice for a front-end such as QEMU.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "vmm/vhost_user/protocol.h"
#include "vmm/virtio/device.h"

namespace kiln::vmm {

class VhostUserRings;

// Everything runs on the loop's thread, the device's process_queue() too. The front-end is trusted
// with the guest's memory, not with ours: sizes, indices and descriptors are checked. Ends by
// itself when the front-end closes the connection or breaks the protocol.
class VhostUserServer {
 public:
  // `connection`: a connected stream socket. `device` must outlive the server. `on_end` is called
  // once, at most: with success when the front-end has closed the connection. It may destroy the
  // server.
  static Result<std::unique_ptr<VhostUserServer>> create(EventLoop& loop, UniqueFd connection,
                                                         VirtioDevice& device,
                                                         std::function<void(Result<void>)> on_end);
  ~VhostUserServer();  // resets the device
  VhostUserServer(const VhostUserServer&) = delete;
  VhostUserServer& operator=(const VhostUserServer&) = delete;

 private:
  struct Handler;
  static const Handler* find_handler(uint32_t request);

  VhostUserServer(EventLoop& loop, UniqueFd connection, VirtioDevice& device,
                  std::function<void(Result<void>)> on_end);
  void receive();
  Result<bool> receive_some();
  void end(Result<void> why);
  Result<void> handle_message();
  Result<void> finish_message(bool replies, bool wants_ack, Result<void> done);
  Result<void> reply(const void* payload, size_t size);
  Result<void> reply_u64(uint64_t value) { return reply(&value, sizeof value); }
  template <typename T>
  T payload() const;
  uint64_t offered_features() const;
  Result<UniqueFd> take_ring_fd(unsigned& index);

  Result<void> get_features();
  Result<void> set_features();
  Result<void> set_owner();
  Result<void> reset_owner();
  Result<void> reset_device();
  Result<void> set_mem_table();
  Result<void> set_vring_num();
  Result<void> set_vring_addr();
  Result<void> set_vring_base();
  Result<void> get_vring_base();
  Result<void> set_vring_kick();
  Result<void> set_vring_call();
  Result<void> set_vring_err();
  uint64_t offered_protocol_features() const;
  Result<void> get_protocol_features();
  Result<void> set_protocol_features();
  Result<void> get_queue_num();
  Result<void> set_vring_enable();
  Result<void> get_config();
  Result<void> set_config();

  EventLoop& loop_;
  UniqueFd connection_;
  VirtioDevice& device_;
  std::function<void(Result<void>)> on_end_;
  std::unique_ptr<VhostUserRings> rings_;
  uint64_t protocol_features_ = 0;

  // The message being received.
  std::string bytes_;
  std::vector<UniqueFd> fds_;
  vhost_user::Header header_;
  std::string_view payload_;
};

}  // namespace kiln::vmm
