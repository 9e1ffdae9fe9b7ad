// SPDX-License-Identifier: Apache-2.0
#include "vmm/vhost_user/frontend.h"

#include <linux/virtio_config.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#define VIRTIO_RING_NO_LEGACY
#include <linux/virtio_ring.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "base/file.h"
#include "base/format.h"
#include "vmm/vhost_user/forwarding.h"

namespace kiln::vmm {

using vhost_user::Request;

namespace {

constexpr uint64_t kVersion1 = uint64_t{1} << VIRTIO_F_VERSION_1;
constexpr uint64_t kRingFeatures =
    (uint64_t{1} << VIRTIO_RING_F_INDIRECT_DESC) | (uint64_t{1} << VIRTIO_RING_F_EVENT_IDX);
constexpr size_t kMaxQueues = vhost_user::kVringIndexMask + 1;
constexpr uint16_t kMaxQueueSize = 32768;

Result<void> check_options(const VhostUserOptions& options) {
  if (options.queue_sizes.empty() || options.queue_sizes.size() > kMaxQueues)
    return invalid_argument(format("{} queues", options.queue_sizes.size()));
  for (const uint16_t size : options.queue_sizes)
    if (!std::has_single_bit(size) || size > kMaxQueueSize)
      return invalid_argument(format("queue of {} descriptors", size));
  // Its driver reports through the configuration, and there is no path from there to the back-end.
  if (options.type == DeviceType::kBalloon)
    return make_error(ErrorKind::kUnimplemented, "a balloon cannot be a vhost-user device");
  return {};
}

// The address by which the front-end names a part of a ring to the back-end: ours, since that is
// what the memory table has. The part must lie in guest memory; both numbers are guest-controlled.
Result<uint64_t> user_address(const GuestMemory& memory, uint64_t address, uint64_t size,
                              uint64_t alignment) {
  if (address % alignment != 0)
    return invalid_argument(format("ring at {:#x} is misaligned", address));
  for (const GuestMemory::Region& region : memory.regions()) {
    const uint64_t offset = address - region.guest_address;
    if (address >= region.guest_address && offset < region.size && size <= region.size - offset)
      return reinterpret_cast<uint64_t>(region.host) + offset;
  }
  return make_error(ErrorKind::kOutOfRange,
                    format("ring at {:#x}+{:#x} is outside memory", address, size));
}

// Once for the driver's notifications that came before anyone listened. The back-end has the same
// eventfd and could have filled it up: then it is a signal already, and a write would block.
void kick(int fd) {
  pollfd one{fd, POLLOUT, 0};
  if (poll(&one, 1, 0) != 1 || (one.revents & POLLOUT) == 0) return;
  const uint64_t count = 1;
  static_cast<void>(retry_eintr([&] { return ::write(fd, &count, sizeof count); }));
}

}  // namespace

VhostUserFrontend::VhostUserFrontend(EventLoop& loop, VhostUserChannel channel,
                                     VhostUserOptions options,
                                     std::function<void(const Error&)> on_lost)
    : loop_(loop),
      channel_(std::move(channel)),
      type_(options.type),
      queue_sizes_(std::move(options.queue_sizes)),
      config_is_ours_(!options.config.empty()),
      config_(std::move(options.config)),
      own_features_(options.own_features),
      on_lost_(std::move(on_lost)),
      rings_(queue_sizes_.size()) {}

Result<std::unique_ptr<VhostUserFrontend>> VhostUserFrontend::create(
    EventLoop& loop, VhostUserOptions options, std::function<void(const Error&)> on_lost) {
  TRY(check_options(options));
  auto channel = TRY(VhostUserChannel::create(std::move(options.socket), options.patience_ms));
  std::unique_ptr<VhostUserFrontend> device(
      new VhostUserFrontend(loop, std::move(channel), std::move(options), std::move(on_lost)));
  TRY(wrap(device->negotiate(), "negotiate with the vhost-user back-end"));
  for (Ring& ring : device->rings_) {
    ring.error.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!ring.error) return sys_error("create an eventfd");
  }
  TRY(loop.add_fd(device->channel_.fd(), EPOLLIN | EPOLLRDHUP, [raw = device.get()](uint32_t) {
    static_cast<void>(raw->channel_.check_silence());
    raw->check_channel();
  }));
  return device;
}

VhostUserFrontend::~VhostUserFrontend() {
  loop_.remove_fd(channel_.fd());
  for (const Ring& ring : rings_)
    if (ring.error) loop_.remove_fd(ring.error.get());
}

Result<void> VhostUserFrontend::negotiate() {
  TRY(channel_.send(Request::kSetOwner));
  offered_ = TRY(channel_.ask_u64(Request::kGetFeatures));
  if ((offered_ & kVersion1) == 0)
    return make_error(ErrorKind::kUnimplemented, "it does not know virtio 1.0");
  if ((offered_ & vhost_user::kFeatureProtocolFeatures) != 0) TRY(negotiate_protocol());
  if (!config_is_ours_) TRY(fetch_config());
  features_ =
      forwarded_features(type_, offered_, queue_sizes_.size(), !config_.empty()) | own_features_;
  if (!config_is_ours_) bound_queue_numbers(type_, features_, queue_sizes_.size(), config_);
  return {};
}

Result<void> VhostUserFrontend::negotiate_protocol() {
  const uint64_t wanted = vhost_user::kProtocolMq | vhost_user::kProtocolReplyAck |
                          vhost_user::kProtocolResetDevice |
                          (config_is_ours_ ? 0 : vhost_user::kProtocolConfig);
  protocol_features_ = TRY(channel_.ask_u64(Request::kGetProtocolFeatures)) & wanted;
  TRY(channel_.send_object(Request::kSetProtocolFeatures, protocol_features_));
  if ((protocol_features_ & vhost_user::kProtocolMq) != 0) TRY(check_queue_count());
  if ((protocol_features_ & vhost_user::kProtocolReplyAck) != 0) {
    TRY(channel_.settle());
    channel_.expect_acknowledgements();
  }
  return {};
}

Result<void> VhostUserFrontend::check_queue_count() {
  const uint64_t said = TRY(channel_.ask_u64(Request::kGetQueueNum));
  // Network back-ends count pairs, without the control queue.
  const size_t needed = type_ == DeviceType::kNet ? queue_sizes_.size() / 2 : queue_sizes_.size();
  if (said >= needed) return {};
  return make_error(ErrorKind::kFailedPrecondition,
                    format("it has {} queues, and {} are needed", said, needed));
}

// Nothing there is a device without configuration, which some are.
Result<void> VhostUserFrontend::fetch_config() {
  const uint32_t size = vhost_user_config_size(type_, offered_);
  if (size == 0) return {};
  if ((protocol_features_ & vhost_user::kProtocolConfig) != 0) {
    config_ = TRY(channel_.ask_config(size));
  } else if (type_ != DeviceType::kNet && type_ != DeviceType::kConsole) {
    return make_error(ErrorKind::kFailedPrecondition, "it has no configuration for the device");
  }
  return {};
}

// virtio 1.2 §2.5: bytes past the end read as zero.
void VhostUserFrontend::read_config(uint32_t offset, std::span<std::byte> out) const {
  std::fill(out.begin(), out.end(), std::byte{0});
  if (offset >= config_.size()) return;
  const size_t size = std::min<size_t>(out.size(), config_.size() - offset);
  std::copy_n(config_.begin() + offset, size, out.begin());
}

Result<void> VhostUserFrontend::activate(Activation activation) {
  stop_rings();  // of an activation that was not ended
  const Result<void> started = start(activation);
  if (!started) {
    // Acknowledgements under way must not be taken for something unasked.
    static_cast<void>(channel_.settle());
    stop_rings();
    check_channel();
    return tl::unexpected(Error(started.error()).wrap("start the vhost-user device"));
  }
  broken_ = std::move(activation.broken);
  return {};
}

Result<void> VhostUserFrontend::start(const Activation& activation) {
  if (channel_.failure()) return tl::unexpected(*channel_.failure());
  if (activation.interrupt_fd < 0) return invalid_argument("it has no interrupt");
  if (activation.memory == nullptr) return invalid_argument("it has no memory");
  if (activation.remote_queues.size() > rings_.size())
    return invalid_argument(
        format("{} queues of {}", activation.remote_queues.size(), rings_.size()));
  // A ring that the two sides read differently would stall or corrupt memory.
  if ((activation.acked_features & kRingFeatures & ~offered_) != 0)
    return make_error(ErrorKind::kFailedPrecondition, "the ring has features that it lacks");
  used_ = true;
  TRY(channel_.send_object(
      Request::kSetFeatures,
      (activation.acked_features & offered_) | (offered_ & vhost_user::kFeatureProtocolFeatures)));
  TRY(send_memory(*activation.memory));
  // All of them before the first one runs: the back-end then knows whether they go on where they
  // stopped.
  const auto count = static_cast<unsigned>(activation.remote_queues.size());
  for (unsigned index = 0; index < count; ++index)
    if (activation.remote_queues[index].ready) TRY(prepare_ring(activation, index));
  for (unsigned index = 0; index < count; ++index)
    if (activation.remote_queues[index].ready) TRY(start_ring(activation, index));
  // The guest does not go on before the back-end has done all of it.
  TRY(channel_.settle());
  for (unsigned index = 0; index < count; ++index) {
    if (!rings_[index].started) continue;
    TRY(watch_ring(index));
    kick(activation.remote_queues[index].kick_fd);
  }
  return {};
}

Result<void> VhostUserFrontend::send_memory(const GuestMemory& memory) {
  const auto regions = memory.regions();
  if (regions.empty() || regions.size() > vhost_user::kMaxMemoryRegions)
    return make_error(ErrorKind::kUnimplemented,
                      format("{} memory regions; a back-end takes {}", regions.size(),
                             vhost_user::kMaxMemoryRegions));
  struct {
    vhost_user::MemoryTableHead head;
    std::array<vhost_user::MemoryRegion, vhost_user::kMaxMemoryRegions> regions{};
  } table;
  static_assert(sizeof table ==
                sizeof table.head + sizeof(vhost_user::MemoryRegion) * table.regions.size());
  table.head.region_count = static_cast<uint32_t>(regions.size());
  std::array<int, vhost_user::kMaxMemoryRegions> fds{};
  for (size_t i = 0; i < regions.size(); ++i) {
    if (regions[i].fd < 0)
      return make_error(ErrorKind::kFailedPrecondition,
                        "a vhost-user device needs shared memory, and the guest's is private");
    table.regions[i] = {regions[i].guest_address, regions[i].size,
                        reinterpret_cast<uint64_t>(regions[i].host), regions[i].fd_offset};
    fds[i] = regions[i].fd;
  }
  const size_t size = sizeof table.head + regions.size() * sizeof(vhost_user::MemoryRegion);
  return channel_.send(Request::kSetMemTable, std::as_bytes(std::span(&table, 1)).first(size),
                       std::span(fds).first(regions.size()));
}

Result<void> VhostUserFrontend::prepare_ring(const Activation& activation, unsigned index) {
  const RemoteQueue& queue = activation.remote_queues[index];
  const QueueConfig& config = queue.config;
  // guest-controlled: size and addresses.
  if (!std::has_single_bit(config.size) || config.size > queue_sizes_[index])
    return invalid_argument(format("queue {} has {} descriptors", index, config.size));
  if (queue.kick_fd < 0) return invalid_argument(format("queue {} has no notifications", index));
  const GuestMemory& memory = *activation.memory;
  // virtio 1.2 §2.7: what each part measures and how it is aligned.
  const uint64_t size = config.size;
  vhost_user::VringAddresses addresses;
  addresses.index = index;
  addresses.descriptors =
      TRY(user_address(memory, config.descriptor_table, size * sizeof(vring_desc), 16));
  addresses.available = TRY(user_address(memory, config.available_ring, 6 + size * 2, 2));
  addresses.used =
      TRY(user_address(memory, config.used_ring, 6 + size * sizeof(vring_used_elem), 4));
  TRY(channel_.send_object(Request::kSetVringNum, vhost_user::VringState{index, config.size}));
  TRY(channel_.send_object(Request::kSetVringBase,
                           vhost_user::VringState{index, rings_[index].base}));
  TRY(channel_.send_object(Request::kSetVringAddr, addresses));
  const uint64_t number = index;
  const std::array call = {activation.interrupt_fd};
  TRY(channel_.send_object(Request::kSetVringCall, number, call));
  const std::array error = {rings_[index].error.get()};
  return channel_.send_object(Request::kSetVringErr, number, error);
}

Result<void> VhostUserFrontend::start_ring(const Activation& activation, unsigned index) {
  const uint64_t number = index;
  const std::array fd = {activation.remote_queues[index].kick_fd};
  // What is sent may be done, whatever is answered.
  rings_[index].started = true;
  TRY(channel_.send_object(Request::kSetVringKick, number, fd));
  // Without VHOST_USER_F_PROTOCOL_FEATURES a ring is enabled from the beginning.
  if ((offered_ & vhost_user::kFeatureProtocolFeatures) == 0) return {};
  return channel_.send_object(Request::kSetVringEnable, vhost_user::VringState{index, 1});
}

Result<void> VhostUserFrontend::watch_ring(unsigned index) {
  const int fd = rings_[index].error.get();
  uint64_t old = 0;  // said before the ring was stopped: no longer true
  static_cast<void>(retry_eintr([&] { return ::read(fd, &old, sizeof old); }));
  return loop_.add_fd(fd, EPOLLIN, [this, index](uint32_t) { handle_ring_error(index); });
}

void VhostUserFrontend::handle_ring_error(unsigned index) {
  loop_.remove_fd(rings_[index].error.get());  // once is enough, and the back-end may repeat itself
  const auto broken = broken_;                 // which may suspend us
  if (broken)
    broken(index, make_error(ErrorKind::kInvalidArgument,
                             format("the vhost-user back-end gives up queue {}", index))
                      .value());
}

void VhostUserFrontend::stop_rings() {
  broken_ = nullptr;
  for (unsigned index = 0; index < rings_.size(); ++index) {
    Ring& ring = rings_[index];
    if (!std::exchange(ring.started, false)) continue;
    loop_.remove_fd(ring.error.get());
    const auto state = channel_.ask_vring_base(index);
    if (state) ring.base = static_cast<uint16_t>(state->num);
  }
}

void VhostUserFrontend::suspend() {
  stop_rings();
  check_channel();
}

void VhostUserFrontend::reset() {
  stop_rings();
  for (Ring& ring : rings_) ring.base = 0;
  // Without that message the back-end has to tell by the bases, as it has with other front-ends.
  if (std::exchange(used_, false) && !channel_.failure() &&
      (protocol_features_ & vhost_user::kProtocolResetDevice) != 0) {
    static_cast<void>(channel_.send(Request::kResetDevice));
    static_cast<void>(channel_.settle());
  }
  check_channel();
}

void VhostUserFrontend::check_channel() {
  if (!channel_.failure() || std::exchange(lost_, true)) return;
  loop_.remove_fd(channel_.fd());
  for (const Ring& ring : rings_) loop_.remove_fd(ring.error.get());
  // Not from within our caller, who may be in the middle of something.
  loop_.defer([this, alive = std::weak_ptr(alive_)] {
    if (!alive.expired()) tell_lost();
  });
}

// The last thing that anyone may do: on_lost_ may destroy us.
void VhostUserFrontend::tell_lost() {
  const Error why = Error(*channel_.failure()).wrap("vhost-user back-end");
  if (const auto broken = std::exchange(broken_, nullptr)) broken(0, why);
  if (const auto on_lost = std::exchange(on_lost_, nullptr)) on_lost(why);
}

}  // namespace kiln::vmm
