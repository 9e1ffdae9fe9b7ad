// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/mmio_transport.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#define VIRTIO_RING_NO_LEGACY
#include <linux/virtio_ring.h>

#include <algorithm>
#include <cstring>

#include "base/file.h"
#include "base/format.h"

namespace kiln::vmm {
namespace {

constexpr uint32_t kMagic = 0x7472'6976;   // "virt"
constexpr uint32_t kVersion = 2;           // §4.2.2: 1 is the legacy interface
constexpr uint32_t kVendor = 0x6e6c'696b;  // "kiln"
// What is ours to offer; a device that is served elsewhere may have less.
constexpr uint64_t kTransportFeatures = (uint64_t{1} << VIRTIO_F_VERSION_1) |
                                        (uint64_t{1} << VIRTIO_RING_F_INDIRECT_DESC) |
                                        (uint64_t{1} << VIRTIO_RING_F_EVENT_IDX);
constexpr uint32_t kKnownStatus = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
                                  VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FEATURES_OK |
                                  VIRTIO_CONFIG_S_FAILED;

bool has(uint64_t features, unsigned bit) { return (features & (uint64_t{1} << bit)) != 0; }

void set_low(uint64_t& address, uint32_t value) {
  address = (address & ~uint64_t{0xffff'ffff}) | value;
}
void set_high(uint64_t& address, uint32_t value) {
  address = (address & 0xffff'ffff) | uint64_t{value} << 32;
}

}  // namespace

Result<std::unique_ptr<MmioTransport>> MmioTransport::create(
    EventLoop& loop, TaskQueue& tasks, std::shared_ptr<const GuestMemory> memory) {
  std::unique_ptr<MmioTransport> slot(new MmioTransport(loop, tasks, std::move(memory)));
  slot->interrupt_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!slot->interrupt_) return sys_error("create an eventfd");
  return slot;
}

MmioTransport::~MmioTransport() { detach(); }

Result<void> MmioTransport::attach(VirtioDevice& device) {
  const std::span<const uint16_t> sizes = device.queue_sizes();
  const std::lock_guard lock(mutex_);
  if (device_ != nullptr) return make_error(ErrorKind::kAlreadyExists, "the slot is taken");
  if (sizes.size() > kMaxMmioQueues)
    return make_error(ErrorKind::kResourceExhausted, format("{} queues", sizes.size()));
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (queues_[i].kick) continue;
    queues_[i].kick = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!queues_[i].kick) return sys_error("create an eventfd");
  }
  tasks_.call([&] {
    device_ = &device;
    queue_count_ = static_cast<unsigned>(sizes.size());
  });
  reset_registers();
  return {};
}

void MmioTransport::detach() {
  const std::lock_guard lock(mutex_);
  if (device_ == nullptr) return;
  tasks_.call([this] {
    deactivate_device();
    device_ = nullptr;
    queue_count_ = 0;
  });
  reset_registers();
}

// ---- vCPU threads: registers

void MmioTransport::read(uint64_t offset, std::span<std::byte> out) {
  std::fill(out.begin(), out.end(), std::byte{0});
  if (offset >= VIRTIO_MMIO_CONFIG) {
    const std::lock_guard lock(mutex_);
    if (device_ != nullptr)
      device_->read_config(static_cast<uint32_t>(offset - VIRTIO_MMIO_CONFIG), out);
    return;
  }
  // §4.2.2.2: only 32-bit aligned accesses.
  if (out.size() != 4 || offset % 4 != 0) return;
  uint32_t value = 0;
  {
    const std::lock_guard lock(mutex_);
    value = read_register(offset);
  }
  std::memcpy(out.data(), &value, sizeof value);
}

uint64_t MmioTransport::offered_features() const {
  return device_->features() | (device_->ring_features() & kTransportFeatures);
}

uint32_t MmioTransport::offered_features(uint32_t select) const {
  if (device_ == nullptr || select > 1) return 0;
  return static_cast<uint32_t>(offered_features() >> (32 * select));
}

// A device that another process serves raises its interrupt by itself: which of its two reasons
// there was is not known here, and "a queue" is always a true enough answer.
uint32_t MmioTransport::interrupt_status() const {
  const bool remote = device_ != nullptr && device_->served_remotely() &&
                      (status_.load() & VIRTIO_CONFIG_S_DRIVER_OK) != 0;
  return interrupt_status_.load() | (remote ? VIRTIO_MMIO_INT_VRING : 0);
}

uint32_t MmioTransport::read_register(uint64_t offset) {
  const QueueState* queue = selected_queue();
  switch (offset) {
    case VIRTIO_MMIO_MAGIC_VALUE:
      return kMagic;
    case VIRTIO_MMIO_VERSION:
      return kVersion;
    case VIRTIO_MMIO_DEVICE_ID:
      return device_ == nullptr ? 0 : static_cast<uint32_t>(device_->type());
    case VIRTIO_MMIO_VENDOR_ID:
      return kVendor;
    case VIRTIO_MMIO_DEVICE_FEATURES:
      return offered_features(device_features_select_);
    case VIRTIO_MMIO_QUEUE_NUM_MAX:
      return queue == nullptr ? 0 : device_->queue_sizes()[queue_select_];
    case VIRTIO_MMIO_QUEUE_READY:
      return queue != nullptr && queue->ready ? 1 : 0;
    case VIRTIO_MMIO_INTERRUPT_STATUS:
      return interrupt_status();
    case VIRTIO_MMIO_STATUS:
      return status_;
    case VIRTIO_MMIO_CONFIG_GENERATION:
      return generation_;
    // §4.2.2: a region that does not exist has a length of -1.
    case VIRTIO_MMIO_SHM_LEN_LOW:
    case VIRTIO_MMIO_SHM_LEN_HIGH:
    case VIRTIO_MMIO_SHM_BASE_LOW:
    case VIRTIO_MMIO_SHM_BASE_HIGH:
      return UINT32_MAX;
    default:
      return 0;
  }
}

void MmioTransport::write(uint64_t offset, std::span<const std::byte> bytes) {
  const std::lock_guard lock(mutex_);
  if (device_ == nullptr) return;
  if (offset >= VIRTIO_MMIO_CONFIG)
    return device_->write_config(static_cast<uint32_t>(offset - VIRTIO_MMIO_CONFIG), bytes);
  if (bytes.size() != 4 || offset % 4 != 0) return;
  uint32_t value = 0;
  std::memcpy(&value, bytes.data(), sizeof value);
  write_register(offset, value);
}

void MmioTransport::write_register(uint64_t offset, uint32_t value) {
  switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
      device_features_select_ = value;
      return;
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
      driver_features_select_ = value;
      return;
    case VIRTIO_MMIO_DRIVER_FEATURES:
      // §2.2.1: features are settled with FEATURES_OK.
      if ((status_ & VIRTIO_CONFIG_S_FEATURES_OK) != 0 || driver_features_select_ > 1) return;
      if (driver_features_select_ == 0) {
        set_low(driver_features_, value);
      } else {
        set_high(driver_features_, value);
      }
      return;
    case VIRTIO_MMIO_QUEUE_SEL:
      queue_select_ = value;
      return;
    case VIRTIO_MMIO_INTERRUPT_ACK:
      interrupt_status_.fetch_and(~value);
      return;
    case VIRTIO_MMIO_STATUS:
      return write_status(value);
    default:
      // A notification that got here names a queue that the device does not have.
      return write_queue_register(offset, value);
  }
}

MmioTransport::QueueState* MmioTransport::selected_queue() {
  return queue_select_ < queue_count_ ? &queues_[queue_select_] : nullptr;
}

// A queue is set up between FEATURES_OK and DRIVER_OK (§3.1.1 steps 7 and 8), and not touched
// while it is in use (§4.2.2.2).
void MmioTransport::write_queue_register(uint64_t offset, uint32_t value) {
  QueueState* queue = selected_queue();
  const uint32_t status = status_;
  if (queue == nullptr || (status & VIRTIO_CONFIG_S_FEATURES_OK) == 0 ||
      (status & VIRTIO_CONFIG_S_DRIVER_OK) != 0)
    return;
  if (offset == VIRTIO_MMIO_QUEUE_READY) {
    queue->ready = (value & 1) != 0;
    return;
  }
  if (queue->ready) return;
  QueueConfig& config = queue->config;
  switch (offset) {
    case VIRTIO_MMIO_QUEUE_NUM:
      // What is too large is kept as 0, which activation refuses.
      config.size =
          static_cast<uint16_t>(value <= device_->queue_sizes()[queue_select_] ? value : 0);
      return;
    case VIRTIO_MMIO_QUEUE_DESC_LOW:
      return set_low(config.descriptor_table, value);
    case VIRTIO_MMIO_QUEUE_DESC_HIGH:
      return set_high(config.descriptor_table, value);
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
      return set_low(config.available_ring, value);
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
      return set_high(config.available_ring, value);
    case VIRTIO_MMIO_QUEUE_USED_LOW:
      return set_low(config.used_ring, value);
    case VIRTIO_MMIO_QUEUE_USED_HIGH:
      return set_high(config.used_ring, value);
    default:
      return;
  }
}

void MmioTransport::write_status(uint32_t value) {
  if (value == 0) return reset();
  const uint32_t before = status_;
  // §2.1.1: the driver clears no bit but by a reset.
  const uint32_t added = value & kKnownStatus & ~before;
  status_.fetch_or(added & ~(VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK));
  if ((added & VIRTIO_CONFIG_S_FEATURES_OK) != 0) enter_features_ok();
  if ((added & VIRTIO_CONFIG_S_DRIVER_OK) != 0 && (status_ & VIRTIO_CONFIG_S_FEATURES_OK) != 0)
    activate();
}

// §3.1.1 step 5: the bit stays clear where the driver wants what was not offered. §6.1: VERSION_1
// is not optional for us.
void MmioTransport::enter_features_ok() {
  if ((driver_features_ & ~offered_features()) != 0 || !has(driver_features_, VIRTIO_F_VERSION_1))
    return;
  for (QueueState& queue : queues_) {
    queue.config.event_idx = has(driver_features_, VIRTIO_RING_F_EVENT_IDX);
    queue.config.indirect = has(driver_features_, VIRTIO_RING_F_INDIRECT_DESC);
  }
  status_.fetch_or(VIRTIO_CONFIG_S_FEATURES_OK);
}

// The vCPU waits: no other register access can come in between.
void MmioTransport::activate() {
  status_.fetch_or(VIRTIO_CONFIG_S_DRIVER_OK);
  tasks_.call([this] {
    if (const auto done = activate_device(*device_); !done) fail(done.error());
  });
}

void MmioTransport::reset() {
  tasks_.call([this] { deactivate_device(); });
  reset_registers();
}

void MmioTransport::reset_registers() {
  status_ = 0;
  interrupt_status_ = 0;
  device_features_select_ = driver_features_select_ = queue_select_ = 0;
  driver_features_ = 0;
  for (QueueState& queue : queues_) {
    queue.config = {};
    queue.ready = false;
  }
}

// ---- device thread

Result<void> MmioTransport::activate_device(VirtioDevice& device) {
  Activation activation;
  activation.memory = memory_;
  activation.acked_features = driver_features_;
  const unsigned count = queue_count_;
  active_ = true;
  for (unsigned i = 0; i < count; ++i) {
    QueueState& state = queues_[i];
    if (device.served_remotely()) {
      activation.remote_queues.push_back({state.ready, state.config, state.kick.get()});
      continue;
    }
    if (state.ready)
      state.queue = TRY(wrap(Queue::create(memory_, state.config), format("queue {}", i)));
    activation.queues.push_back(state.queue.get());
  }
  activation.interrupt = [this](unsigned) { raise(VIRTIO_MMIO_INT_VRING); };
  activation.interrupt_fd = interrupt_.get();
  activation.broken = [this](unsigned index, const Error& why) {
    fail(Error{why.kind, why.sys_errno, format("queue {}: {}", index, why.message)});
  };
  activation.config_changed = [this] {
    ++generation_;
    raise(VIRTIO_MMIO_INT_CONFIG);
  };
  TRY(device.activate(std::move(activation)));
  if (device.served_remotely()) return {};
  for (unsigned i = 0; i < count; ++i) {
    if (queues_[i].queue == nullptr) continue;
    // Edge-triggered: the counter need not be read back.
    TRY(loop_.add_fd(queues_[i].kick.get(), EPOLLIN | EPOLLET, [this, i](uint32_t) {
      ++queues_[i].kicks;
      process(i);
    }));
    // Buffers that the driver made available before DRIVER_OK, against §3.1.1: harmless.
    process(i);
  }
  return {};
}

void MmioTransport::deactivate_device() {
  if (!std::exchange(active_, false)) return;
  for (QueueState& state : queues_)
    if (state.kick) loop_.remove_fd(state.kick.get());
  device_->reset();
  for (QueueState& state : queues_) state.queue.reset();
}

void MmioTransport::process(unsigned index) {
  if (!active_ || (status_ & VIRTIO_CONFIG_S_NEEDS_RESET) != 0) return;
  const auto done = device_->process_queue(index);
  if (!done) fail(Error{done.error().kind, 0, format("queue {}: {}", index, done.error().message)});
}

// §2.1.2: the driver hears of DEVICE_NEEDS_RESET by a configuration interrupt.
void MmioTransport::fail(const Error& why) {
  const uint32_t before = status_.fetch_or(VIRTIO_CONFIG_S_NEEDS_RESET);
  if ((before & VIRTIO_CONFIG_S_NEEDS_RESET) != 0) return;
  if (warnings_.allow())
    log_warning("virtio device {}: needs a reset: {}", static_cast<uint32_t>(device_->type()),
                why.message);
  raise(VIRTIO_MMIO_INT_CONFIG);
}

void MmioTransport::raise(uint32_t cause) {
  interrupt_status_.fetch_or(cause);
  const uint64_t one = 1;
  static_cast<void>(retry_eintr([&] { return ::write(interrupt_.get(), &one, sizeof one); }));
}

}  // namespace kiln::vmm
