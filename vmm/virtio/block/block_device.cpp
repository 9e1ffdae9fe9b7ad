// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/block/block_device.h"

#include <linux/fs.h>
#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <ctime>
#include <utility>

#include "base/format.h"

namespace kiln::vmm {
namespace {

constexpr std::array<uint16_t, 1> kQueueSizes = {BlockLimits::kQueueSize};
constexpr uint16_t kSlots = BlockLimits::kQueueSize;
// One io_uring_enter and at most one interrupt for so many requests.
constexpr unsigned kBatchRequests = 32;
constexpr uint64_t kBatchBytes = 1U << 20;
// Longer writes go through the ring, so that the loop's other sources need not wait for the
// copying.
constexpr uint32_t kMostAtOnce = 1U << 20;
constexpr int kTurnRequests = 256;
constexpr int64_t kTurnBytes = 16 << 20;

int64_t monotonic_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

constexpr uint64_t bit(unsigned feature) { return uint64_t{1} << feature; }

}  // namespace

struct BlockDevice::Budget {
  int requests = kTurnRequests;
  int64_t bytes = kTurnBytes;
  bool spent() const { return requests <= 0 || bytes <= 0; }
};

BlockDevice::BlockDevice(EventLoop& loop, BlockFile file, const BlockOptions& options)
    : loop_(loop),
      file_(std::move(file)),
      serial_(options.serial.substr(0, VIRTIO_BLK_ID_BYTES)),
      limits_{file_.capacity(), options.read_only},
      limiter_(options.rate_limiter),
      slots_(kSlots) {
  detach();
  fill_config();
}

Result<std::unique_ptr<BlockDevice>> BlockDevice::create(EventLoop& loop, BlockOptions options) {
  BlockFile file = TRY(BlockFile::open(std::move(options.file), options.read_only));
  std::unique_ptr<BlockDevice> device(new BlockDevice(loop, std::move(file), options));
  if (options.use_io_uring) TRY(device->set_up_ring());
  return device;
}

Result<void> BlockDevice::set_up_ring() {
  auto ring = IoRing::create(kSlots);
  if (!ring) {
    log_debug("{}; disks are read and written one request at a time", ring.error().message);
    return {};
  }
  ring_ = std::move(*ring);
  return loop_.add_fd(ring_->event_fd(), EPOLLIN, [this](uint32_t) {
    ring_->clear_event();
    work_outside_a_call();
  });
}

BlockDevice::~BlockDevice() {
  drain(false);
  detach();
  if (ring_) loop_.remove_fd(ring_->event_fd());
}

uint64_t BlockDevice::features() const {
  uint64_t out = bit(VIRTIO_BLK_F_SIZE_MAX) | bit(VIRTIO_BLK_F_SEG_MAX) |
                 bit(VIRTIO_BLK_F_BLK_SIZE) | bit(VIRTIO_BLK_F_TOPOLOGY) | bit(VIRTIO_BLK_F_FLUSH);
  if (limits_.read_only) return out | bit(VIRTIO_BLK_F_RO);
  out |= bit(VIRTIO_BLK_F_CONFIG_WCE) | bit(VIRTIO_BLK_F_WRITE_ZEROES);
  if (file_.can_discard()) out |= bit(VIRTIO_BLK_F_DISCARD);
  return out;
}

std::span<const uint16_t> BlockDevice::queue_sizes() const { return kQueueSizes; }

void BlockDevice::fill_config() {
  config_.capacity = file_.capacity() / BlockFile::kSectorSize;
  config_.size_max = BlockLimits::kSizeMax;
  config_.seg_max = BlockLimits::kSegMax;
  config_.blk_size = file_.logical_block();
  uint8_t exponent = 0;
  while ((file_.logical_block() << exponent) < file_.physical_block()) ++exponent;
  config_.physical_block_exp = exponent;
  config_.alignment_offset = static_cast<uint8_t>(std::min(file_.alignment_offset(), 255U));
  config_.min_io_size = static_cast<uint16_t>(std::min(file_.minimum_io(), 65535U));
  config_.opt_io_size = file_.optimal_io();
  if (limits_.read_only) return;
  if (file_.can_discard()) {
    config_.max_discard_sectors = BlockLimits::kMaxDiscardSectors;
    config_.max_discard_seg = BlockLimits::kMaxDiscardSegments;
    config_.discard_sector_alignment = file_.physical_block() / BlockFile::kSectorSize;
  }
  config_.max_write_zeroes_sectors = BlockLimits::kMaxZeroesSectors;
  config_.max_write_zeroes_seg = BlockLimits::kMaxZeroesSegments;
  config_.write_zeroes_may_unmap = file_.can_punch_holes() ? 1 : 0;
}

void BlockDevice::read_config(uint32_t offset, std::span<std::byte> out) const {
  virtio_blk_config config = config_;
  if (!limits_.read_only) config.wce = writeback_.load() ? 1 : 0;
  const auto bytes = std::as_bytes(std::span(&config, 1));
  std::fill(out.begin(), out.end(), std::byte{0});
  if (offset >= bytes.size()) return;
  const size_t count = std::min(out.size(), bytes.size() - offset);
  std::memcpy(out.data(), bytes.data() + offset, count);
}

void BlockDevice::write_config(uint32_t offset, std::span<const std::byte> bytes) {
  constexpr uint32_t kWriteback = offsetof(virtio_blk_config, wce);
  // §5.2.5: `writeback` is the driver's, all else is not.
  if (limits_.read_only || offset > kWriteback || kWriteback - offset >= bytes.size()) return;
  writeback_.store(bytes[kWriteback - offset] != std::byte{0});
  writeback_chosen_.store(true);
}

// §5.2.6.2: when a write is stable by itself.
bool BlockDevice::writes_through() const {
  if ((activation_.acked_features & bit(VIRTIO_BLK_F_CONFIG_WCE)) != 0) return !writeback_.load();
  return (activation_.acked_features & bit(VIRTIO_BLK_F_FLUSH)) == 0;
}

Queue* BlockDevice::queue() const {
  return active_ && !activation_.queues.empty() ? activation_.queues[0] : nullptr;
}

Result<void> BlockDevice::activate(Activation activation) {
  activation_ = std::move(activation);
  active_ = true;
  broken_ = false;
  // §5.2.5.2: a driver that cannot flush starts without a cache.
  if ((activation_.acked_features & bit(VIRTIO_BLK_F_FLUSH)) == 0 && !writeback_chosen_.load())
    writeback_.store(false);
  return {};
}

// With nothing in flight.
void BlockDevice::detach() {
  if (timer_) loop_.cancel_timer(*timer_);
  timer_.reset();
  free_slots_.clear();
  for (uint16_t slot = kSlots; slot-- > 0;) free_slots_.push_back(slot);
  active_ = false;
  activation_ = {};
}

void BlockDevice::suspend() {
  drain(true);
  if (Queue* const one = queue(); one != nullptr && one->needs_interrupt())
    activation_.interrupt(0);
  detach();
}

void BlockDevice::reset() {
  drain(false);
  detach();
  broken_ = false;
  writeback_.store(true);
  writeback_chosen_.store(false);
}

// The kernel must have let go of the guest's memory before a caller of suspend() or reset() goes
// on. What was begun is finished only if `keep`.
void BlockDevice::drain(bool keep) {
  while (in_flight_ != 0) {
    Queue* const one = keep && !broken_ ? queue() : nullptr;
    if (one == nullptr) {
      while (ring_->withdraw()) --in_flight_;
      if (in_flight_ == 0) return;
    }
    if (const auto waited = ring_->submit_and_wait(); !waited) {
      if (log_limit_.allow())
        log_warning("wait for a disk's requests: {}, trying again", waited.error().message);
      if (one != nullptr) static_cast<void>(run_unsubmitted(*one));
    }
    IoRing::Completion completion;
    while (ring_->pop(completion)) {
      // That the queue is broken is known by the flag.
      if (one != nullptr && !broken_)
        static_cast<void>(resume(*one, completion));
      else
        --in_flight_;
    }
  }
}

DeviceMetrics BlockDevice::metrics() const {
  DeviceMetrics out = metrics_;
  out.rate_limiter_hits = limiter_.hits();
  return out;
}

tl::unexpected<Error> BlockDevice::break_queue(Error why) {
  broken_ = true;
  return tl::unexpected(std::move(why));
}

Result<void> BlockDevice::process_queue(unsigned index) {
  Queue* const one = queue();
  if (index != 0 || one == nullptr) return {};
  auto worked = work(*one);
  if (!worked) return break_queue(std::move(worked.error()));
  return {};
}

// From the loop: an event or a timer.
void BlockDevice::work_outside_a_call() {
  Queue* const one = queue();
  if (one == nullptr || broken_) return;
  if (auto worked = work(*one); !worked) {
    broken_ = true;
    if (activation_.broken) activation_.broken(0, worked.error());
  }
}

void BlockDevice::work_later(int64_t milliseconds) {
  timer_ = loop_.add_timer(milliseconds, [this] {
    timer_.reset();
    work_outside_a_call();
  });
}

Result<void> BlockDevice::work(Queue& queue) {
  if (broken_) return make_error(ErrorKind::kFailedPrecondition, "a block queue needs a reset");
  if (!ring_) return timer_ ? Result<void>{} : serve(queue);
  ring_->enable_events(false);
  Result<void> done = collect(queue);
  if (done && !timer_) done = serve(queue);
  ring_->enable_events(true);
  // What was completed just before that has made no event.
  if (done && ring_->has_completions()) {
    done = collect(queue);
    if (done && starved_ && !timer_) work_later(0);
  }
  if (queue.needs_interrupt()) activation_.interrupt(0);
  return done;
}

Result<void> BlockDevice::serve(Queue& queue) {
  Budget budget;
  starved_ = false;
  queue.set_notification(false);
  while (true) {
    const Batch batch = TRY(take_batch(queue, budget));
    if (ring_) TRY(collect(queue));
    if (queue.needs_interrupt()) activation_.interrupt(0);
    switch (batch) {
      case Batch::kEmpty:
        queue.set_notification(true);
        if (!queue.has_available()) return {};
        queue.set_notification(false);
        break;
      case Batch::kThrottled:
        work_later((limiter_.wait_ns(monotonic_ns()) + 999'999) / 1'000'000);
        return {};
      case Batch::kNoSlot:
        // A completion goes on.
        starved_ = free_slots_.empty();
        if (starved_) return {};
        break;
      case Batch::kFull:
        break;
    }
    if (budget.spent()) {
      work_later(0);
      return {};
    }
  }
}

Result<BlockDevice::Batch> BlockDevice::take_batch(Queue& queue, Budget& budget) {
  uint64_t bytes = 0;
  for (unsigned taken = 0; taken < kBatchRequests && bytes < kBatchBytes; ++taken) {
    if (free_slots_.empty()) return Batch::kNoSlot;
    if (!TRY(queue.pop(chain_))) return Batch::kEmpty;
    const uint16_t slot = free_slots_.back();
    BlockRequest& request = slots_[slot];
    TRY(request.parse(*activation_.memory, chain_, limits_, writes_through()));
    if (limiter_.limits() && !limiter_.take(request.cost(), monotonic_ns())) {
      queue.undo_pop();
      return Batch::kThrottled;
    }
    free_slots_.pop_back();
    bytes += request.cost();
    --budget.requests;
    budget.bytes -= static_cast<int64_t>(request.cost());
    TRY(begin(queue, slot));
  }
  return Batch::kFull;
}

// A request that is still in chain_.
Result<void> BlockDevice::begin(Queue& queue, uint16_t slot) {
  BlockRequest& request = slots_[slot];
  ++metrics_.requests;
  switch (request.operation()) {
    case BlockRequest::Operation::kNone:
      return complete(queue, slot);
    case BlockRequest::Operation::kGetId: {
      // §5.2.6: padded with NUL, which need not be there at the end.
      std::array<char, VIRTIO_BLK_ID_BYTES> id{};
      std::copy(serial_.begin(), serial_.end(), id.begin());
      TRY(activation_.memory->write_ranges(chain_.writable, 0, std::as_bytes(std::span(id))));
      request.set_written(VIRTIO_BLK_ID_BYTES);
      return complete(queue, slot);
    }
    case BlockRequest::Operation::kRead:
      if (ring_ && read_at_once(request)) return complete(queue, slot);
      break;
    case BlockRequest::Operation::kWrite:
      if (ring_ && write_at_once(request)) return complete(queue, slot);
      break;
    case BlockRequest::Operation::kFlush:
    case BlockRequest::Operation::kDiscard:
    case BlockRequest::Operation::kWriteZeroes:
      break;
  }
  return step(queue, slot);
}

// What lies in the page cache needs no ring. True: the request is complete.
bool BlockDevice::read_at_once(BlockRequest& request) {
  if (!reads_at_once_) return false;
  BlockIo io = request.next(file_);
  io.flags |= RWF_NOWAIT;
  const int64_t result = file_.run(io);
  // Errors, and the end of the file, are the next step's.
  if (result == -EOPNOTSUPP) reads_at_once_ = false;
  return result > 0 && request.advance(result);
}

// Into the page cache, without a worker. Few file systems know RWF_NOWAIT for that (ext4 does not),
// so a write may have to wait; WritePace keeps such waits rare. True: the request is complete.
bool BlockDevice::write_at_once(BlockRequest& request) {
  const BlockIo& io = request.next(file_);
  const int64_t start = monotonic_ns();
  // Stable writes always wait.
  if ((io.flags & RWF_DSYNC) != 0 || request.size() > kMostAtOnce || !write_pace_.try_at(start))
    return false;
  const int64_t result = file_.run(io);
  write_pace_.took(start, monotonic_ns());
  return result > 0 && request.advance(result);
}

Result<void> BlockDevice::step(Queue& queue, uint16_t slot) {
  const BlockIo& io = slots_[slot].next(file_);
  io_uring_sqe filled{};
  if (ring_ && file_.prepare(io, filled)) {
    if (io_uring_sqe* const entry = ring_->prepare()) {
      *entry = filled;
      entry->user_data = slot;
      ++in_flight_;
      return {};
    }
  }
  return run_now(queue, slot);
}

// The rest of a request, from the step that next() has named.
Result<void> BlockDevice::run_now(Queue& queue, uint16_t slot) {
  BlockRequest& request = slots_[slot];
  while (!request.advance(file_.run(request.current()))) static_cast<void>(request.next(file_));
  return complete(queue, slot);
}

// Hands over what is prepared and completes what is ready, until there is neither.
Result<void> BlockDevice::collect(Queue& queue) {
  do {
    TRY(submit(queue));
    IoRing::Completion completion;
    while (ring_->pop(completion)) TRY(resume(queue, completion));
  } while (ring_->has_unsubmitted());
  return {};
}

Result<void> BlockDevice::submit(Queue& queue) {
  if (ring_->submit()) return {};
  return run_unsubmitted(queue);
}

// The kernel has no memory for a request: it is done without it.
Result<void> BlockDevice::run_unsubmitted(Queue& queue) {
  while (const auto slot = ring_->withdraw()) {
    --in_flight_;
    TRY(run_now(queue, static_cast<uint16_t>(*slot)));
  }
  return {};
}

Result<void> BlockDevice::resume(Queue& queue, const IoRing::Completion& completion) {
  --in_flight_;
  const auto slot = static_cast<uint16_t>(completion.tag);
  BlockRequest& request = slots_[slot];
  if (file_.must_run(request.current(), completion.result)) return run_now(queue, slot);
  if (request.advance(completion.result)) return complete(queue, slot);
  return step(queue, slot);
}

Result<void> BlockDevice::complete(Queue& queue, uint16_t slot) {
  const BlockRequest& request = slots_[slot];
  free_slots_.push_back(slot);
  const uint8_t status = request.status();
  if (request.operation() == BlockRequest::Operation::kRead)
    metrics_.bytes_to_guest += request.transferred();
  if (request.operation() == BlockRequest::Operation::kWrite)
    metrics_.bytes_from_guest += request.transferred();
  if (status != VIRTIO_BLK_S_OK) report(request);
  TRY(activation_.memory->write_object(request.status_address(), status));
  auto pushed = queue.push_used(request.head(), request.used_length());
  if (!pushed) return break_queue(std::move(pushed.error()));
  return {};
}

void BlockDevice::report(const BlockRequest& request) {
  ++metrics_.failed_requests;
  if (request.error() == 0 || !log_limit_.allow()) return;
  log_warning("disk `{}`: a request of {} bytes at {} failed: {}", serial_, request.size(),
              request.current().offset, errno_text(request.error()));
}

}  // namespace kiln::vmm
