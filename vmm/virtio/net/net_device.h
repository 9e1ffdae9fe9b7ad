// SPDX-License-Identifier: Apache-2.0
// The virtio network device (virtio 1.2 §5.1) on a tap.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "vmm/api/vm_config.h"
#include "vmm/virtio/device.h"
#include "vmm/virtio/net/mac_address.h"
#include "vmm/virtio/net/receiver.h"
#include "vmm/virtio/net/tap.h"
#include "vmm/virtio/net/transmitter.h"

namespace kiln::vmm {

// What the device asks of the tap besides frames. Tests put a socket there.
struct TapControl {
  std::function<Result<void>(int fd)> prepare = prepare_tap;
  std::function<Result<void>(int fd, unsigned offloads)> set_offloads = set_tap_offloads;
};

struct NetOptions {
  UniqueFd tap;  // attached, with IFF_NO_PI | IFF_VNET_HDR
  MacAddress mac{};
  uint16_t mtu = 1500;           // 68 at least
  RateLimiterConfig rx_limiter;  // towards the guest
  RateLimiterConfig tx_limiter;
  TapControl control;
};

// One queue pair; no control queue. Lives on the loop's thread but for read_config(). Frames, their
// headers and the buffers are guest-controlled.
class NetDevice : public VirtioDevice {
 public:
  static constexpr unsigned kRx = 0;
  static constexpr unsigned kTx = 1;

  static Result<std::unique_ptr<NetDevice>> create(EventLoop& loop, NetOptions options);
  ~NetDevice() override;

  DeviceType type() const override { return DeviceType::kNet; }
  uint64_t features() const override;
  std::span<const uint16_t> queue_sizes() const override;
  void read_config(uint32_t offset, std::span<std::byte> out) const override;
  Result<void> activate(Activation activation) override;
  Result<void> process_queue(unsigned index) override;
  void reset() override;
  void suspend() override;
  // Requests are frames that got through, failed ones those that were dropped here.
  DeviceMetrics metrics() const override;

 private:
  // Of one direction, by queue.
  struct Direction {
    bool broken = false;    // by the driver; until it is activated again
    bool deferred = false;  // a turn will come by itself
    std::optional<EventLoop::TimerId> timer;
  };

  NetDevice(EventLoop& loop, NetOptions options);
  Queue* queue(unsigned index) const;
  void handle_tap(uint32_t events);
  Result<void> take_turn(unsigned index);
  void take_turn_of_ours(unsigned index);
  void defer_turn(unsigned index);
  void watch_writable(bool wanted);
  void lose_tap();
  void stop();

  EventLoop& loop_;
  UniqueFd tap_;
  MacAddress mac_;
  uint16_t mtu_;
  TapControl control_;
  DeviceMetrics metrics_;
  NetReceiver receiver_;
  NetTransmitter transmitter_;
  Activation activation_;
  bool active_ = false;
  bool watches_writable_ = false;
  std::array<Direction, 2> directions_;
  std::atomic<bool> link_up_ = true;
  // Gone when the device is: a deferred turn cannot be taken back from the loop.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace kiln::vmm
