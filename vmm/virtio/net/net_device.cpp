// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/net/net_device.h"

#include <sys/epoll.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/format.h"
#include "base/log.h"

namespace kiln::vmm {
namespace {

constexpr std::array<uint16_t, 2> kQueueSizes = {256, 256};
constexpr uint16_t kSmallestMtu = 68;  // virtio 1.2 §5.1.4.1
// Edge-triggered: while the guest has no buffers, or is not there, frames stay in the tap without
// waking us over and over, and nothing is to be changed in the loop when they are wanted again.
constexpr uint32_t kReadable = EPOLLIN | EPOLLET;

constexpr uint64_t feature_mask(std::initializer_list<unsigned> bits) {
  uint64_t mask = 0;
  for (const unsigned bit : bits) mask |= uint64_t{1} << bit;
  return mask;
}

constexpr uint64_t kFeatures = feature_mask(
    {VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_MTU, VIRTIO_NET_F_MAC,
     VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_ECN,
     VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_ECN,
     VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_STATUS});

// virtio 1.2 §5.1.4: the part that these features make valid.
struct __attribute__((packed)) Config {
  MacAddress mac;
  uint16_t status;
  uint16_t max_virtqueue_pairs;  // without VIRTIO_NET_F_MQ it does not exist
  uint16_t mtu;
};
static_assert(offsetof(Config, status) == offsetof(virtio_net_config, status));
static_assert(offsetof(Config, mtu) == offsetof(virtio_net_config, mtu));

}  // namespace

NetDevice::NetDevice(EventLoop& loop, NetOptions options)
    : loop_(loop),
      tap_(std::move(options.tap)),
      mac_(options.mac),
      mtu_(options.mtu),
      control_(std::move(options.control)),
      receiver_(tap_.get(), options.rx_limiter, metrics_),
      transmitter_(tap_.get(), options.tx_limiter, metrics_) {}

Result<std::unique_ptr<NetDevice>> NetDevice::create(EventLoop& loop, NetOptions options) {
  if (!is_unicast(options.mac)) return invalid_argument("MAC address is not that of one interface");
  if (options.mtu < kSmallestMtu)
    return invalid_argument(format("MTU {} is below {}", options.mtu, kSmallestMtu));
  TRY(options.control.prepare(options.tap.get()));
  std::unique_ptr<NetDevice> device(new NetDevice(loop, std::move(options)));
  TRY(loop.add_fd(device->tap_.get(), kReadable,
                  [self = device.get()](uint32_t events) { self->handle_tap(events); }));
  return device;
}

NetDevice::~NetDevice() {
  NetDevice::reset();
  loop_.remove_fd(tap_.get());
}

uint64_t NetDevice::features() const { return kFeatures; }

std::span<const uint16_t> NetDevice::queue_sizes() const { return kQueueSizes; }

void NetDevice::read_config(uint32_t offset, std::span<std::byte> out) const {
  Config config{mac_, 0, 0, mtu_};
  if (link_up_.load(std::memory_order_relaxed)) config.status = VIRTIO_NET_S_LINK_UP;
  const auto bytes = std::as_bytes(std::span(&config, 1));
  for (size_t i = 0; i < out.size(); ++i) {
    const uint64_t at = uint64_t{offset} + i;
    out[i] = at < bytes.size() ? bytes[at] : std::byte{0};
  }
}

DeviceMetrics NetDevice::metrics() const {
  DeviceMetrics metrics = metrics_;
  metrics.rate_limiter_hits = receiver_.rate_limiter_hits() + transmitter_.rate_limiter_hits();
  return metrics;
}

Queue* NetDevice::queue(unsigned index) const {
  return index < activation_.queues.size() ? activation_.queues[index] : nullptr;
}

Result<void> NetDevice::activate(Activation activation) {
  auto set = control_.set_offloads(tap_.get(), tap_offloads(activation.acked_features));
  // An interface that was deleted is a link that is down, not a device that does not work.
  if (!set && set.error().sys_errno != EBADFD) return set;
  activation_ = std::move(activation);
  active_ = true;
  receiver_.start(activation_.memory, queue(kRx), activation_.acked_features);
  transmitter_.start(activation_.memory, queue(kTx));
  // Buffers may be there, and frames, of which nobody will tell us again.
  for (const unsigned index : {kRx, kTx}) {
    directions_[index].broken = false;
    defer_turn(index);
  }
  return {};
}

Result<void> NetDevice::process_queue(unsigned index) {
  if (!active_ || index >= directions_.size()) return {};
  return take_turn(index);
}

void NetDevice::stop() {
  active_ = false;
  for (Direction& direction : directions_) {
    if (direction.timer) loop_.cancel_timer(*direction.timer);
    direction.timer.reset();
  }
  transmitter_.stop();
  activation_ = {};
}

void NetDevice::suspend() {
  receiver_.suspend();
  stop();
}

void NetDevice::reset() {
  receiver_.reset();
  stop();
  // What comes in from now on is for a driver that has negotiated nothing yet. A failure shows when
  // the next driver's offloads are set.
  static_cast<void>(control_.set_offloads(tap_.get(), 0));
}

void NetDevice::handle_tap(uint32_t events) {
  if ((events & EPOLLOUT) != 0) {
    transmitter_.tap_writable();
    watch_writable(false);
    take_turn_of_ours(kTx);
  }
  // An error and a hang-up are found by reading.
  if ((events & (EPOLLIN | EPOLLERR | EPOLLHUP)) != 0) {
    receiver_.tap_readable();
    // One that waits for its turn does not get another.
    if (!directions_[kRx].deferred) take_turn_of_ours(kRx);
  }
}

// On an error the driver is broken, and its queue is left alone.
Result<void> NetDevice::take_turn(unsigned index) {
  Direction& direction = directions_[index];
  if (!active_ || direction.broken) return {};
  if (direction.timer) loop_.cancel_timer(*direction.timer);
  direction.timer.reset();
  auto turn = index == kRx ? receiver_.run() : transmitter_.run();
  if (!turn) {
    direction.broken = true;
    return tl::unexpected(std::move(turn.error()));
  }
  if (Queue* of_turn = queue(index); of_turn != nullptr && of_turn->needs_interrupt())
    activation_.interrupt(index);
  switch (turn->next) {
    case NetTurn::Next::kWait:
      break;
    case NetTurn::Next::kAgain:
      defer_turn(index);
      break;
    case NetTurn::Next::kLater:
      direction.timer = loop_.add_timer(
          std::max<int64_t>((turn->delay_ns + 999'999) / 1'000'000, 1), [this, index] {
            directions_[index].timer.reset();
            take_turn_of_ours(index);
          });
      break;
    case NetTurn::Next::kWaitWritable:
      watch_writable(true);
      break;
  }
  if (receiver_.tap_gone() || transmitter_.tap_gone()) lose_tap();
  return {};
}

// A turn that the driver did not ask for, so that somebody must be told of its failure.
void NetDevice::take_turn_of_ours(unsigned index) {
  const auto done = take_turn(index);
  if (done) return;
  // A copy: it may reset the device.
  const auto broken = activation_.broken;
  if (broken) broken(index, done.error());
}

void NetDevice::defer_turn(unsigned index) {
  if (std::exchange(directions_[index].deferred, true)) return;
  loop_.defer([this, index, alive = std::weak_ptr<bool>(alive_)] {
    if (alive.expired()) return;
    directions_[index].deferred = false;
    take_turn_of_ours(index);
  });
}

void NetDevice::watch_writable(bool wanted) {
  if (watches_writable_ == wanted || !loop_.has_fd(tap_.get())) return;
  watches_writable_ = wanted;
  const auto watched = loop_.modify_fd(tap_.get(), wanted ? kReadable | EPOLLOUT : kReadable);
  if (!watched) log_warning("net: {}, ignoring", watched.error().message);
}

// The interface was deleted. The guest sees its cable pulled.
void NetDevice::lose_tap() {
  if (!link_up_.exchange(false)) return;
  loop_.remove_fd(tap_.get());
  log_warning("net: the tap was deleted, taking the link down");
  if (activation_.config_changed) activation_.config_changed();
}

}  // namespace kiln::vmm
