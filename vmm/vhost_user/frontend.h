// SPDX-License-Identifier: Apache-2.0
// The machine's side of a vhost-user device: another process (kiln-vmm fs, or any back-end of
// QEMU's docs/interop/vhost-user.rst) serves the queues.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "vmm/vhost_user/channel.h"
#include "vmm/virtio/device.h"

namespace kiln::vmm {

struct VhostUserOptions {
  UniqueFd socket;  // a connected stream socket; the back-end's
  DeviceType type = DeviceType::kFs;
  std::vector<uint16_t> queue_sizes;  // powers of two
  // The device's configuration, where the front-end has it to itself (virtio-fs: tag and number of
  // request queues). Empty: the back-end is asked for it.
  std::vector<std::byte> config;
  // What the driver is offered beside the back-end's features: those that only announce a field of
  // `config` (VIRTIO_NET_F_MAC).
  uint64_t own_features = 0;
  // How long the back-end may take to answer, until it counts as hung. A server that waits for its
  // disk is no reason to end a machine.
  int64_t patience_ms = 30'000;
};

// On the loop's thread, except read_config(), which reads what never changes. The guest is kept
// from queues outside its memory; the back-end is trusted with the guest's memory and no more:
// what it says is bounded and checked. Exchanges with it block the thread: they are few, when the
// device is made, activated, suspended and reset.
class VhostUserFrontend : public VirtioDevice {
 public:
  // Negotiates with the back-end. `on_lost` is called at most once, from the loop: the back-end has
  // closed the connection, does not answer, or breaks the protocol. The driver has been told
  // (Activation::broken) by then. It may destroy the device.
  static Result<std::unique_ptr<VhostUserFrontend>> create(
      EventLoop& loop, VhostUserOptions options, std::function<void(const Error&)> on_lost);
  ~VhostUserFrontend() override;

  DeviceType type() const override { return type_; }
  uint64_t features() const override { return features_; }
  uint64_t ring_features() const override { return offered_; }
  std::span<const uint16_t> queue_sizes() const override { return queue_sizes_; }
  void read_config(uint32_t offset, std::span<std::byte> out) const override;
  bool served_remotely() const override { return true; }
  // The back-end serves the queues when this returns, or none of them.
  Result<void> activate(Activation activation) override;
  Result<void> process_queue(unsigned) override { return {}; }
  // The back-end is told that the driver has reset the device.
  void reset() override;
  // The queues stop where they are; the back-end keeps its state.
  void suspend() override;

 private:
  struct Ring {
    UniqueFd error;  // an eventfd: the back-end finds the driver broken
    bool started = false;
    uint16_t base = 0;  // where the back-end goes on
  };

  VhostUserFrontend(EventLoop& loop, VhostUserChannel channel, VhostUserOptions options,
                    std::function<void(const Error&)> on_lost);
  Result<void> negotiate();
  Result<void> negotiate_protocol();
  Result<void> check_queue_count();
  Result<void> fetch_config();
  Result<void> start(const Activation& activation);
  Result<void> send_memory(const GuestMemory& memory);
  Result<void> prepare_ring(const Activation& activation, unsigned index);
  Result<void> start_ring(const Activation& activation, unsigned index);
  Result<void> watch_ring(unsigned index);
  void stop_rings();
  void handle_ring_error(unsigned index);
  // Notices what has made the channel unusable.
  void check_channel();
  void tell_lost();

  EventLoop& loop_;
  VhostUserChannel channel_;
  const DeviceType type_;
  const std::vector<uint16_t> queue_sizes_;
  const bool config_is_ours_;
  std::vector<std::byte> config_;
  const uint64_t own_features_;
  std::function<void(const Error&)> on_lost_;
  uint64_t offered_ = 0;            // by the back-end
  uint64_t protocol_features_ = 0;  // agreed on
  uint64_t features_ = 0;           // shown to the driver
  std::vector<Ring> rings_;
  std::function<void(unsigned, const Error&)> broken_;  // while active
  bool used_ = false;                                   // activated since the last reset
  bool lost_ = false;
  // Gone with us, so that a deferred call knows.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace kiln::vmm
