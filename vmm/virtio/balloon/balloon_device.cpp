// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/balloon/balloon_device.h"

#include <algorithm>
#include <cstring>

#include "base/format.h"

namespace kiln::vmm {
namespace {

// virtio 1.2 §5.5.2. Linux reports 32 ranges at once and does not report at all with less room.
constexpr std::array<uint16_t, 5> kQueueSizes = {128, 128, 128, 128, 128};
constexpr unsigned kInflateQueue = 0;
constexpr unsigned kDeflateQueue = 1;
constexpr unsigned kStatisticsQueue = 2;
constexpr uint32_t kPagesPerMib = (1U << 20) >> VIRTIO_BALLOON_PFN_SHIFT;
constexpr uint64_t kPageSize = uint64_t{1} << VIRTIO_BALLOON_PFN_SHIFT;
// What Linux puts into one inflate request.
constexpr size_t kPagesPerStep = 256;
// Then the other devices on the thread have their turn.
constexpr int kStepsPerTurn = 16;
// Six times what is defined; entries behind them are not looked at.
constexpr size_t kMaxStatistics = 64;

constexpr uint64_t bit(unsigned feature) { return uint64_t{1} << feature; }

constexpr std::array<std::string_view, VIRTIO_BALLOON_S_NR> kNames = [] {
  std::array<std::string_view, VIRTIO_BALLOON_S_NR> names;
  names[VIRTIO_BALLOON_S_SWAP_IN] = "swap_in";
  names[VIRTIO_BALLOON_S_SWAP_OUT] = "swap_out";
  names[VIRTIO_BALLOON_S_MAJFLT] = "major_faults";
  names[VIRTIO_BALLOON_S_MINFLT] = "minor_faults";
  names[VIRTIO_BALLOON_S_MEMFREE] = "free_memory";
  names[VIRTIO_BALLOON_S_MEMTOT] = "total_memory";
  names[VIRTIO_BALLOON_S_AVAIL] = "available_memory";
  names[VIRTIO_BALLOON_S_CACHES] = "disk_caches";
  names[VIRTIO_BALLOON_S_HTLB_PGALLOC] = "hugetlb_allocations";
  names[VIRTIO_BALLOON_S_HTLB_PGFAIL] = "hugetlb_failures";
  return names;
}();

Result<uint32_t> pages_of(uint32_t mib) {
  if (mib > UINT32_MAX / kPagesPerMib)
    return invalid_argument(format("a balloon of {} MiB is too large", mib));
  return mib * kPagesPerMib;
}

}  // namespace

BalloonDevice::BalloonDevice(EventLoop& loop, const BalloonOptions& options)
    : loop_(loop), options_(options), target_pages_(options.amount_mib * kPagesPerMib) {}

Result<std::unique_ptr<BalloonDevice>> BalloonDevice::create(EventLoop& loop,
                                                             const BalloonOptions& options) {
  TRY(pages_of(options.amount_mib));
  return std::unique_ptr<BalloonDevice>(new BalloonDevice(loop, options));
}

BalloonDevice::~BalloonDevice() { BalloonDevice::reset(); }

// Not offered: MUST_TELL_HOST, since a page in the balloon is memory as any other and may be used
// at once; FREE_PAGE_HINT, which is for migration; PAGE_POISON: without it a driver that needs its
// poison to survive does not report (§5.5.3.1).
uint64_t BalloonDevice::features() const {
  uint64_t out = 0;
  if (options_.stats_polling_interval_s != 0) out |= bit(VIRTIO_BALLOON_F_STATS_VQ);
  if (options_.deflate_on_oom) out |= bit(VIRTIO_BALLOON_F_DEFLATE_ON_OOM);
  if (options_.free_page_reporting) out |= bit(VIRTIO_BALLOON_F_REPORTING);
  return out;
}

std::span<const uint16_t> BalloonDevice::queue_sizes() const { return kQueueSizes; }

// §5.5.2: reporting_vq is number 4, and numbers of queues whose feature was not negotiated are left
// out. Linux does not leave them out but counts on, so that its reporting queue is 2 or 3. What is
// behind the statistics can only be that queue, so both are served.
BalloonDevice::Role BalloonDevice::role(unsigned index) const {
  if (index == kInflateQueue) return Role::kInflate;
  if (index == kDeflateQueue) return Role::kDeflate;
  if (index == kStatisticsQueue &&
      (activation_.acked_features & bit(VIRTIO_BALLOON_F_STATS_VQ)) != 0)
    return Role::kStatistics;
  if (index < kQueues && (activation_.acked_features & bit(VIRTIO_BALLOON_F_REPORTING)) != 0)
    return Role::kReporting;
  return Role::kNone;
}

Queue* BalloonDevice::queue(unsigned index) const {
  return index < activation_.queues.size() ? activation_.queues[index] : nullptr;
}

// ---- the configuration, from any thread

void BalloonDevice::read_config(uint32_t offset, std::span<std::byte> out) const {
  virtio_balloon_config config{};
  config.num_pages = target_pages_.load(std::memory_order_relaxed);
  config.actual = actual_pages_.load(std::memory_order_relaxed);
  const auto bytes = std::as_bytes(std::span(&config, 1));
  for (size_t i = 0; i < out.size(); ++i) {
    const uint64_t at = uint64_t{offset} + i;
    out[i] = at < bytes.size() ? bytes[at] : std::byte{0};
  }
}

// §5.5.6.1: `actual` is the driver's. poison_val would be too, had PAGE_POISON been offered.
void BalloonDevice::write_config(uint32_t offset, std::span<const std::byte> bytes) {
  constexpr uint64_t kStart = offsetof(virtio_balloon_config, actual);
  uint32_t actual = actual_pages_.load(std::memory_order_relaxed);
  auto field = std::as_writable_bytes(std::span(&actual, 1));
  for (size_t i = 0; i < bytes.size(); ++i) {
    const uint64_t at = uint64_t{offset} + i;
    if (at >= kStart && at - kStart < field.size()) field[at - kStart] = bytes[i];
  }
  actual_pages_.store(actual, std::memory_order_relaxed);
}

Result<void> BalloonDevice::set_target_mib(uint32_t mib) {
  const uint32_t pages = TRY(pages_of(mib));
  if (target_pages_.exchange(pages, std::memory_order_relaxed) == pages) return {};
  if (activation_.config_changed) {
    activation_.config_changed();
  } else {
    target_is_news_ = true;
  }
  return {};
}

uint32_t BalloonDevice::target_mib() const {
  return target_pages_.load(std::memory_order_relaxed) / kPagesPerMib;
}

uint32_t BalloonDevice::actual_mib() const {
  return actual_pages_.load(std::memory_order_relaxed) / kPagesPerMib;
}

// ---- coming and going

Result<void> BalloonDevice::activate(Activation activation) {
  activation_ = std::move(activation);
  if (target_is_news_ && activation_.config_changed) activation_.config_changed();
  target_is_news_ = false;
  schedule_poll();
  return {};
}

void BalloonDevice::suspend() {
  activation_ = {};
  for (auto* timer : {&turn_timer_, &poll_timer_}) {
    if (*timer) loop_.cancel_timer(**timer);
    timer->reset();
  }
  // Each queue is looked at after the next activate().
  unfinished_.fill(false);
}

// The target stays: it is the host's wish, and the next driver's to fulfil.
void BalloonDevice::reset() {
  suspend();
  for (Work& work : work_) work.busy = false;
  held_buffer_.reset();
  statistics_.fill(std::nullopt);
  actual_pages_.store(0, std::memory_order_relaxed);
}

// ---- requests

Result<void> BalloonDevice::process_queue(unsigned index) {
  Queue* const kicked = queue(index);
  if (kicked == nullptr || role(index) == Role::kNone || unfinished_[index]) return {};
  return serve(index, *kicked);
}

Result<void> BalloonDevice::serve(unsigned index, Queue& queue) {
  Work& work = work_[index];
  queue.set_notification(false);  // we look by ourselves
  for (int steps = 0; steps < kStepsPerTurn; ++steps) {
    if (!work.busy) {
      if (!TRY(queue.pop(work.chain))) {
        queue.set_notification(true);
        // The driver may have added a buffer before it saw that.
        if (!queue.has_available()) return {};
        queue.set_notification(false);
        continue;
      }
      ++metrics_.requests;
      work.busy = true;
      work.done = 0;
    }
    if (role(index) == Role::kStatistics) {
      TRY(collect(work, queue));
    } else {
      if (!TRY(step(role(index), work))) continue;
      work.busy = false;
      TRY(queue.push_used(work.chain.head, 0));
    }
    if (queue.needs_interrupt()) activation_.interrupt(index);
  }
  continue_later(index);
  return {};
}

// A piece of a request. True when it was the last one.
Result<bool> BalloonDevice::step(Role role, Work& work) {
  if (role == Role::kInflate) return inflate(work);
  if (role == Role::kReporting) return report(work);
  // Deflate. Without MUST_TELL_HOST it is a courtesy (§5.5.6): the guest has its pages back by
  // touching them, and says in `actual` how many are left.
  metrics_.bytes_from_guest += work.chain.readable_size;
  return true;
}

Result<bool> BalloonDevice::inflate(Work& work) {
  std::array<uint32_t, kPagesPerStep> numbers;  // guest-controlled
  const uint32_t left = work.chain.readable_size - work.done;
  const auto pages =
      std::span(numbers).first(std::min<size_t>(left / sizeof(uint32_t), numbers.size()));
  TRY(activation_.memory->read_ranges(work.chain.readable, work.done,
                                      std::as_writable_bytes(pages)));
  work.done += static_cast<uint32_t>(pages.size_bytes());
  metrics_.bytes_from_guest += pages.size_bytes();
  discard_pages(pages);
  const uint32_t rest = work.chain.readable_size - work.done;
  if (rest >= sizeof(uint32_t)) return false;
  if (rest != 0 || work.chain.writable_size != 0 || work.chain.readable_size == 0)
    ignore("inflates by something that is no list of pages");
  return true;
}

// Drivers hand pages over in the order in which they found them, mostly neighbours: one call for
// each run of them.
void BalloonDevice::discard_pages(std::span<uint32_t> pages) {
  std::sort(pages.begin(), pages.end());
  size_t first = 0;
  for (size_t i = 0; i < pages.size(); ++i) {
    if (i + 1 < pages.size() && pages[i + 1] - pages[i] <= 1) continue;
    discard(pages[first] * kPageSize, (uint64_t{pages[i]} - pages[first] + 1) * kPageSize);
    first = i + 1;
  }
}

// One range for each step. The queue has checked that they are in memory, §5.5.6.7 that they are
// the device's to change until the chain is given back.
bool BalloonDevice::report(Work& work) {
  if (work.chain.readable_size != 0 || work.chain.writable.empty()) {
    ignore("reports something that is no free memory");
    return true;
  }
  const GuestRange& range = work.chain.writable[work.done++];
  discard(range.address, range.size);
  return work.done == work.chain.writable.size();
}

// Runs may lie across regions and, in part, outside them.
void BalloonDevice::discard(uint64_t address, uint64_t size) {
  while (size != 0) {
    uint64_t piece = activation_.memory->contiguous(address, size);
    if (piece == 0) {
      ignore("gives up pages that are not memory");
      piece = std::min(size, kPageSize);
    } else if (const auto discarded = activation_.memory->discard(address, piece)) {
      discarded_bytes_ += *discarded;
    } else {
      // The guest has done its part; the host merely does not gain by it.
      if (log_limit_.allow()) log_warning("balloon: {}, ignoring", discarded.error().message);
    }
    address += piece;
    size -= piece;
  }
}

void BalloonDevice::ignore(const char* what) {
  ++metrics_.failed_requests;
  if (log_limit_.allow()) log_warning("the guest's balloon driver {}, ignoring", what);
}

// ---- statistics

// §5.5.6.3: a buffer with numbers is kept; giving it back asks for new ones.
Result<void> BalloonDevice::collect(Work& work, Queue& queue) {
  std::array<virtio_balloon_stat, kMaxStatistics> entries;  // guest-controlled
  const auto known = std::span(entries).first(
      std::min<size_t>(work.chain.readable_size / sizeof(virtio_balloon_stat), entries.size()));
  TRY(activation_.memory->read_ranges(work.chain.readable, 0, std::as_writable_bytes(known)));
  metrics_.bytes_from_guest += known.size_bytes();
  statistics_.fill(std::nullopt);
  for (const virtio_balloon_stat& entry : known) {
    // In any order, and tags that are not known are ignored (§5.5.6.3.2).
    if (entry.tag < statistics_.size()) statistics_[entry.tag] = uint64_t{entry.val};
  }
  work.busy = false;
  // §5.5.6.3.1: at most one buffer is there at all times. Of two the older one goes back, so that
  // the queue cannot fill up.
  if (held_buffer_) {
    ignore("has two statistics buffers");
    TRY(queue.push_used(*held_buffer_, 0));
  }
  held_buffer_ = work.chain.head;
  return {};
}

void BalloonDevice::schedule_poll() {
  if (poll_timer_ || role(kStatisticsQueue) != Role::kStatistics) return;
  poll_timer_ = loop_.add_timer(int64_t{options_.stats_polling_interval_s} * 1000, [this] {
    poll_timer_.reset();
    schedule_poll();
    poll_statistics();
  });
}

void BalloonDevice::poll_statistics() {
  Queue* const statistics = queue(kStatisticsQueue);
  if (statistics == nullptr || !held_buffer_) return;
  const auto pushed = statistics->push_used(*held_buffer_, 0);
  held_buffer_.reset();
  if (!pushed) {
    if (activation_.broken) activation_.broken(kStatisticsQueue, pushed.error());
  } else if (statistics->needs_interrupt()) {
    activation_.interrupt(kStatisticsQueue);
  }
}

std::map<std::string_view, uint64_t> BalloonDevice::statistics() const {
  std::map<std::string_view, uint64_t> out;
  for (size_t tag = 0; tag < statistics_.size(); ++tag)
    if (statistics_[tag]) out.emplace(kNames[tag], *statistics_[tag]);
  return out;
}

// ---- turns

void BalloonDevice::continue_later(unsigned index) {
  unfinished_[index] = true;
  if (!turn_timer_) turn_timer_ = loop_.add_timer(0, [this] { continue_now(); });
}

void BalloonDevice::continue_now() {
  turn_timer_.reset();
  for (unsigned index = 0; index < kQueues; ++index) {
    if (!unfinished_[index]) continue;
    unfinished_[index] = false;
    const auto result = process_queue(index);
    // Nobody called us who could be told.
    if (!result && activation_.broken) activation_.broken(index, result.error());
  }
}

}  // namespace kiln::vmm
