// SPDX-License-Identifier: Apache-2.0
#include "vmm/vhost_user/rings.h"

#include <fcntl.h>
#include <linux/virtio_config.h>
#include <sys/epoll.h>
#define VIRTIO_RING_NO_LEGACY
#include <linux/virtio_ring.h>

#include <utility>

#include "base/file.h"
#include "base/format.h"

namespace kiln::vmm {
namespace {

// A full counter already is a signal.
void signal(int fd) {
  const uint64_t one = 1;
  static_cast<void>(retry_eintr([&] { return ::write(fd, &one, sizeof one); }));
}

// The front-end could hand out anything; whatever it is, it must not block us.
Result<void> make_nonblocking(const UniqueFd& fd) {
  const int flags = fcntl(fd.get(), F_GETFL);
  if (flags < 0 || fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) != 0)
    return sys_error("use an eventfd");
  return {};
}

}  // namespace

VhostUserRings::VhostUserRings(EventLoop& loop, VirtioDevice& device)
    : loop_(loop),
      device_(device),
      rings_(device.queue_sizes().size()),
      calls_(std::make_shared<CallFds>()) {
  calls_->fds.resize(rings_.size());
}

VhostUserRings::~VhostUserRings() {
  for (const Ring& ring : rings_)
    if (ring.kick) loop_.remove_fd(ring.kick.get());
  device_.reset();
}

Result<VhostUserRings::Ring*> VhostUserRings::at(unsigned index) {
  if (index >= rings_.size())
    return invalid_argument(format("ring {} of {} rings", index, rings_.size()));
  return &rings_[index];
}

bool VhostUserRings::should_run(const Ring& ring) const {
  return ring.kick.valid() && (ring.enabled || !needs_enable_) && memory_ != nullptr;
}

void VhostUserRings::suspend() {
  if (!std::exchange(active_, false)) return;
  device_.suspend();
}

void VhostUserRings::drop_queue(Ring& ring) {
  if (ring.queue == nullptr) return;
  ring.next_available = ring.queue->next_available();
  ring.queue.reset();
}

Result<void> VhostUserRings::open_queue(Ring& ring) {
  if (!ring.addresses) return invalid_argument("ring was started without addresses");
  QueueConfig config;
  config.size = ring.size;
  config.descriptor_table = TRY(memory_->guest_address_of_user(ring.addresses->descriptors));
  config.available_ring = TRY(memory_->guest_address_of_user(ring.addresses->available));
  config.used_ring = TRY(memory_->guest_address_of_user(ring.addresses->used));
  config.event_idx = (features_ & (uint64_t{1} << VIRTIO_RING_F_EVENT_IDX)) != 0;
  config.indirect = (features_ & (uint64_t{1} << VIRTIO_RING_F_INDIRECT_DESC)) != 0;
  ring.queue = TRY(Queue::create(memory_, config, ring.next_available));
  return {};
}

// Brings the device in line with what the front-end wants by now.
Result<void> VhostUserRings::resume() {
  suspend();
  Activation activation;
  activation.memory = memory_;
  activation.acked_features = features_;
  bool any = false;
  for (Ring& ring : rings_) {
    if (!should_run(ring)) {
      drop_queue(ring);
    } else if (ring.queue == nullptr) {
      TRY(open_queue(ring));
    }
    any = any || ring.queue != nullptr;
    activation.queues.push_back(ring.queue.get());
  }
  if (!any) return {};
  if (std::exchange(reset_pending_, false)) device_.reset();
  activation.interrupt = [calls = calls_](unsigned index) {
    const std::lock_guard lock(calls->mutex);
    if (index < calls->fds.size() && calls->fds[index].valid()) signal(calls->fds[index].get());
  };
  activation.broken = [this](unsigned index, const Error& why) { fail(index, why); };
  TRY(device_.activate(std::move(activation)));
  active_ = true;
  // Kicks from before the ring ran, or while the device was suspended.
  for (unsigned index = 0; index < rings_.size(); ++index)
    if (rings_[index].queue != nullptr) process(index);
  return {};
}

Result<void> VhostUserRings::set_features(uint64_t features, bool needs_enable) {
  if (features == features_ && needs_enable == needs_enable_) return {};
  if (active_) return make_error(ErrorKind::kFailedPrecondition, "features change while rings run");
  features_ = features;
  needs_enable_ = needs_enable;
  return resume();
}

Result<void> VhostUserRings::set_memory(std::shared_ptr<const GuestMemory> memory) {
  suspend();
  for (Ring& ring : rings_) drop_queue(ring);
  memory_ = std::move(memory);
  return resume();
}

Result<void> VhostUserRings::set_size(unsigned index, uint32_t size) {
  Ring* ring = TRY(at(index));
  if (ring->queue != nullptr)
    return make_error(ErrorKind::kFailedPrecondition, "size of a ring that runs");
  if (size == 0 || size > 32768) return invalid_argument(format("ring of {} descriptors", size));
  ring->size = static_cast<uint16_t>(size);
  return {};
}

Result<void> VhostUserRings::set_addresses(const vhost_user::VringAddresses& addresses) {
  Ring* ring = TRY(at(addresses.index));
  // Logging of dirty pages is not offered.
  if (addresses.flags != 0) return invalid_argument("ring flags were not negotiated");
  ring->addresses = addresses;
  if (ring->queue == nullptr) return {};
  suspend();
  drop_queue(*ring);
  return resume();
}

Result<void> VhostUserRings::set_base(unsigned index, uint32_t base) {
  Ring* ring = TRY(at(index));
  if (ring->queue != nullptr)
    return make_error(ErrorKind::kFailedPrecondition, "base of a ring that runs");
  if (base > UINT16_MAX) return invalid_argument(format("ring base {}", base));
  // A paused VM goes on where it stopped. Anything else is a driver that has reset the device, from
  // a front-end that has no RESET_DEVICE to say so.
  if (ring->stopped_at && *ring->stopped_at != base) reset_pending_ = true;
  ring->stopped_at.reset();
  ring->next_available = static_cast<uint16_t>(base);
  return {};
}

Result<void> VhostUserRings::set_kick(unsigned index, UniqueFd fd) {
  Ring* ring = TRY(at(index));
  if (ring->kick) loop_.remove_fd(ring->kick.get());
  ring->kick.reset();
  // Edge-triggered: every write to an eventfd is an edge, so that its counter, which is no matter
  // of ours, need not be read back: a system call less for each kick.
  TRY(loop_.add_fd(fd.get(), EPOLLIN | EPOLLET, [this, index](uint32_t) { process(index); }));
  ring->kick = std::move(fd);
  if (ring->queue != nullptr) {
    process(index);  // whatever the old descriptor had to say
    return {};
  }
  return resume();
}

Result<void> VhostUserRings::set_call(unsigned index, UniqueFd fd) {
  TRY(at(index));
  if (fd) TRY(make_nonblocking(fd));
  const std::lock_guard lock(calls_->mutex);
  calls_->fds[index] = std::move(fd);
  return {};
}

Result<void> VhostUserRings::set_error(unsigned index, UniqueFd fd) {
  Ring* ring = TRY(at(index));
  if (fd) TRY(make_nonblocking(fd));
  ring->error = std::move(fd);
  return {};
}

Result<void> VhostUserRings::set_enabled(unsigned index, bool enabled) {
  Ring* ring = TRY(at(index));
  if (ring->enabled == enabled) return {};
  ring->enabled = enabled;
  return resume();
}

Result<uint16_t> VhostUserRings::stop(unsigned index) {
  Ring* ring = TRY(at(index));
  if (ring->kick) loop_.remove_fd(ring->kick.get());
  ring->kick.reset();
  ring->failed = false;
  TRY(resume());
  ring->stopped_at = ring->next_available;
  return ring->next_available;
}

Result<void> VhostUserRings::disable_all() {
  for (Ring& ring : rings_) {
    ring.enabled = false;
    if (ring.kick) loop_.remove_fd(ring.kick.get());
    ring.kick.reset();
  }
  return resume();
}

Result<void> VhostUserRings::reset_device() {
  TRY(disable_all());
  for (Ring& ring : rings_) {
    ring.failed = false;
    ring.stopped_at.reset();
    ring.next_available = 0;
  }
  reset_pending_ = false;
  device_.reset();
  return {};
}

void VhostUserRings::process(unsigned index) {
  Ring& ring = rings_[index];
  if (!active_ || ring.queue == nullptr || ring.failed) return;
  const Result<void> done = device_.process_queue(index);
  if (!done) fail(index, done.error());
}

// The driver broke the ring: it is left alone until the driver resets the device.
void VhostUserRings::fail(unsigned index, const Error& why) {
  if (index >= rings_.size() || std::exchange(rings_[index].failed, true)) return;
  Ring& ring = rings_[index];
  if (ring.kick) loop_.remove_fd(ring.kick.get());
  if (ring.error) signal(ring.error.get());
  if (failures_.allow()) log_warning("vhost-user: stop ring {}: {}", index, why.message);
}

}  // namespace kiln::vmm
