// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/net/receiver.h"

#include <linux/if_tun.h>

#include <algorithm>
#include <climits>
#include <cstring>

#include "base/file.h"
#include "base/format.h"
#include "vmm/virtio/net/tap.h"

namespace kiln::vmm {
namespace {

// Room for the largest frame and a byte more: what fills it all was cut by the kernel.
constexpr uint32_t kStageTarget = kNetHeaderSize + kLargestFrame + 1;
// Half of what one readv() takes, so that with the last staged chain it is never more.
constexpr size_t kMaxRanges = IOV_MAX / 2 - 1;
// For small frames, of which there were so many in a row, a long list of buffers would cost more
// than the frame. The kernel copies a list of up to eight (UIO_FASTIOV) without allocating.
constexpr uint64_t kSmallWindow = 4096;
constexpr unsigned kSmallFrames = 16;
constexpr size_t kShortList = 7;
// Used-up entries that are kept before they are moved out of the way.
constexpr size_t kMaxUsedRanges = 2048;
// How long a frame waits for a driver that has too few buffers for it.
constexpr int64_t kPatienceNs = 200'000'000;
// After an error of the tap that says nothing about the next read.
constexpr int64_t kBackOffNs = 20'000'000;

}  // namespace

NetReceiver::NetReceiver(int tap, const RateLimiterConfig& limiter, DeviceMetrics& metrics)
    : tap_(tap),
      limiter_(limiter),
      metrics_(metrics),
      // Its pages come into being with the first frame that needs them.
      spill_(std::make_unique_for_overwrite<std::byte[]>(kStageTarget)) {}

void NetReceiver::start(std::shared_ptr<const GuestMemory> memory, Queue* queue,
                        uint64_t acked_features) {
  memory_ = std::move(memory);
  queue_ = queue;
  mergeable_ = (acked_features & (uint64_t{1} << VIRTIO_NET_F_MRG_RXBUF)) != 0;
  offloads_ = tap_offloads(acked_features);
  // It may have been ours before.
  if (queue_ != nullptr) queue_->set_notification(true);
  wants_kicks_ = true;
  readable_ = true;
}

void NetReceiver::suspend() {
  if (queue_ != nullptr) queue_->undo_pop(static_cast<unsigned>(staged_count()));
  forget_staged();
  memory_.reset();
  queue_ = nullptr;
  kept_deadline_ns_ = 0;
}

void NetReceiver::reset() {
  forget_staged();
  memory_.reset();
  queue_ = nullptr;
  kept_.clear();
  kept_deadline_ns_ = 0;
}

Result<NetTurn> NetReceiver::run() {
  if (queue_ == nullptr) return NetTurn{};
  if (not_before_ns_ != 0) {
    if (monotonic_ns() < not_before_ns_) return later();
    not_before_ns_ = 0;
  }
  return read_frames();
}

NetTurn NetReceiver::later() const {
  return {NetTurn::Next::kLater, std::max<int64_t>(not_before_ns_ - monotonic_ns(), 1)};
}

// ---- the driver's buffers

void NetReceiver::forget_staged() {
  staged_.clear();
  ranges_.clear();
  joined_.clear();
  joined_front_ = 0;
  front_ = 0;
  capacity_ = 0;
}

void NetReceiver::forget_used() {
  if (staged_count() == 0) return forget_staged();
  const size_t ranges = first_range();
  if (ranges < kMaxUsedRanges) return;
  staged_.erase(staged_.begin(), staged_.begin() + static_cast<ptrdiff_t>(front_));
  ranges_.erase(ranges_.begin(), ranges_.begin() + static_cast<ptrdiff_t>(ranges));
  joined_.erase(joined_.begin(), joined_.begin() + static_cast<ptrdiff_t>(joined_front_));
  joined_front_ = 0;
  for (Staged& staged : staged_) staged.first -= ranges;
  front_ = 0;
}

// Pops chains until the largest frame fits, or only one where buffers are not merged. The driver
// may make the same buffer available twice, so that the ring's size bounds nothing by itself.
Result<void> NetReceiver::stage() {
  forget_used();
  const size_t most = mergeable_ ? queue_->size() : 1;
  while (capacity_ < kStageTarget && staged_count() < most &&
         staged_ranges().size() <= kMaxRanges && TRY(queue_->pop(chain_)))
    TRY(add_staged(chain_));
  return {};
}

Result<void> NetReceiver::add_staged(const DescriptorChain& chain) {
  if (chain.readable_size != 0) return invalid_argument("net: a receive buffer is not writable");
  // virtio 1.2 §5.1.6.3.1: at least the header's size.
  if (chain.writable_size < kNetHeaderSize)
    return invalid_argument("net: a receive buffer is shorter than the header");
  Staged staged{chain.head, 0, ranges_.size(), 0};
  for (const GuestRange& range : chain.writable) {
    // The rest of a longer buffer would stay unused anyway.
    if (staged.size >= kStageTarget || staged.count >= kMaxRanges) break;
    GuestRange used = range;
    used.size = std::min(used.size, kStageTarget);
    append_joined(joined_, TRY(memory_->iovec_of(used)));
    ranges_.push_back(used);
    staged.size += used.size;
    ++staged.count;
  }
  capacity_ += staged.size;
  staged_.push_back(staged);
  return {};
}

// Whether `wanted` bytes of buffers are staged; if not, the driver will kick when it has more.
Result<bool> NetReceiver::stage_or_ask(uint64_t wanted) {
  TRY(stage());
  while (capacity_ < wanted) {
    const size_t before = staged_count();
    // Anew each time: with event indices it is the next buffer that is asked for.
    queue_->set_notification(true);
    wants_kicks_ = true;
    TRY(stage());
    if (staged_count() == before) return false;
  }
  if (wants_kicks_) {
    queue_->set_notification(false);
    wants_kicks_ = false;
  }
  return true;
}

// ---- frames

Result<NetTurn> NetReceiver::read_frames() {
  uint64_t bytes = 0;
  for (unsigned frames = 0; frames < kFramesPerTurn && bytes < kBytesPerTurn; ++frames) {
    if (!kept_.empty()) {
      NetTurn turn;
      if (!TRY(deliver_kept(turn))) return turn;
    }
    if (gone_ || !readable_ || !TRY(stage_or_ask(1))) return NetTurn{};
    const ssize_t size = read_frame();
    if (size <= 0) return read_failed(size == 0 ? EBADFD : errno);
    bytes += static_cast<uint64_t>(size);
    if (!TRY(accept_frame(static_cast<uint32_t>(size)))) return later();
  }
  return NetTurn{NetTurn::Next::kAgain};
}

// Lists the staged buffers for the kernel, or the first of them.
void NetReceiver::show_window() {
  const size_t most = small_frames_ < kSmallFrames ? SIZE_MAX : kShortList;
  list_.clear();
  window_ = 0;
  for (size_t i = joined_front_; i < joined_.size() && window_ < kStageTarget; ++i) {
    if (window_ >= kSmallWindow && list_.size() >= most) break;
    if (joined_[i].iov_len == 0) continue;
    list_.push_back(joined_[i]);
    window_ += joined_[i].iov_len;
  }
}

// The first `bytes` of what is staged are the driver's again. The last entry stays, maybe empty:
// what is staged next may be its neighbour.
void NetReceiver::use_up(uint64_t bytes) {
  while (bytes != 0) {
    iovec& first = joined_[joined_front_];
    const size_t part = std::min<uint64_t>(bytes, first.iov_len);
    first.iov_base = static_cast<std::byte*>(first.iov_base) + part;
    first.iov_len -= part;
    bytes -= part;
    if (first.iov_len == 0 && joined_front_ + 1 < joined_.size()) ++joined_front_;
  }
}

// Into the window of the staged buffers, and what that does not hold into `spill_`.
ssize_t NetReceiver::read_frame() {
  show_window();
  if (window_ < kStageTarget) list_.push_back({spill_.get(), kStageTarget});
  const ssize_t size =
      retry_eintr([this] { return readv(tap_, list_.data(), static_cast<int>(list_.size())); });
  if (size > static_cast<ssize_t>(kSmallWindow)) {
    small_frames_ = 0;
  } else if (size > 0 && small_frames_ < kSmallFrames) {
    ++small_frames_;
  }
  return size;
}

NetTurn NetReceiver::read_failed(int error) {
  if (error == EAGAIN) {
    readable_ = false;
    return {};
  }
  if (error == EBADFD) {
    gone_ = true;
    return {};
  }
  // The frame is lost, and there may be more of them; or it is not about a frame at all, and the
  // next read would say the same.
  drop(0, errno_text(error).c_str());
  not_before_ns_ = monotonic_ns() + kBackOffNs;
  return later();
}

// A frame is in the staged buffers, with the rest of it in `spill_`. False: nothing more before
// `not_before_ns_`.
Result<bool> NetReceiver::accept_frame(uint32_t size) {
  if (size < kNetHeaderSize + kSmallestFrame || size > kNetHeaderSize + kLargestFrame) {
    drop(size, "is too short or too long");
    return true;
  }
  const bool fits = size <= capacity_;
  // More buffers would not help: it is the first that must hold it (virtio 1.2 §5.1.6.3.1).
  if (!fits && !mergeable_) {
    drop(size, "does not fit the driver's buffer");
    return true;
  }
  const bool paid = take_tokens(size - kNetHeaderSize);
  if (!paid || !fits) {
    TRY(keep(size));
    kept_paid_ = paid;
    return paid;
  }
  if (size > window_)
    TRY(memory_->write_ranges(staged_ranges(), window_, std::span(spill_.get(), size - window_)));
  virtio_net_hdr_v1 header{};
  // From the guest's memory, so guest-controlled by now: a guest can only mislead itself.
  TRY(memory_->read_ranges(staged_ranges(), 0, std::as_writable_bytes(std::span(&header, 1))));
  if (!may_have(header)) {
    drop(size, "needs an offload that the driver does not have");
    return true;
  }
  TRY(deliver(header, size));
  return true;
}

// Frames that were queued in the tap before the driver's offloads were set may be of any kind.
bool NetReceiver::may_have(const virtio_net_hdr_v1& header) const {
  if ((header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0 && (offloads_ & TUN_F_CSUM) == 0)
    return false;
  if ((header.gso_type & VIRTIO_NET_HDR_GSO_ECN) != 0 && (offloads_ & TUN_F_TSO_ECN) == 0)
    return false;
  switch (header.gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
    case VIRTIO_NET_HDR_GSO_NONE:
      return true;
    case VIRTIO_NET_HDR_GSO_TCPV4:
      return (offloads_ & TUN_F_TSO4) != 0;
    case VIRTIO_NET_HDR_GSO_TCPV6:
      return (offloads_ & TUN_F_TSO6) != 0;
    case VIRTIO_NET_HDR_GSO_UDP:
      return (offloads_ & TUN_F_UFO) != 0;
    default:
      return false;
  }
}

// Gives the driver the first `size` staged bytes as a frame.
Result<void> NetReceiver::deliver(virtio_net_hdr_v1 header, uint32_t size) {
  used_.clear();
  uint32_t left = size;
  uint64_t used_up = 0;
  for (size_t i = front_; left != 0; ++i) {
    const uint32_t part = std::min(left, staged_[i].size);
    used_.push_back({staged_[i].head, part});
    left -= part;
    used_up += staged_[i].size;
  }
  capacity_ -= used_up;
  // virtio 1.2 §5.1.6.4.1: without GUEST_CSUM no flags; num_buffers is 1 where nothing is merged.
  if ((offloads_ & TUN_F_CSUM) == 0) header.flags = 0;
  header.num_buffers = static_cast<uint16_t>(used_.size());
  TRY(memory_->write_ranges(staged_ranges(), 0, std::as_bytes(std::span(&header, 1))));
  // §5.1.6.4: all of a packet's buffers are there when the first of them is.
  TRY(queue_->push_used(used_));
  front_ += used_.size();
  use_up(used_up);
  ++metrics_.requests;
  metrics_.bytes_to_guest += size - kNetHeaderSize;
  return {};
}

// Copies the frame that was just read out of the driver's buffers.
Result<void> NetReceiver::keep(uint32_t size) {
  const auto in_guest = static_cast<uint32_t>(std::min<uint64_t>(size, window_));
  kept_.resize(size);
  TRY(memory_->read_ranges(staged_ranges(), 0, std::span(kept_).first(in_guest)));
  std::memcpy(kept_.data() + in_guest, spill_.get(), size - in_guest);
  kept_deadline_ns_ = 0;
  return {};
}

// True when the kept frame is out of the way; otherwise `turn` says when to go on.
Result<bool> NetReceiver::deliver_kept(NetTurn& turn) {
  const auto size = static_cast<uint32_t>(kept_.size());
  virtio_net_hdr_v1 header{};
  std::memcpy(&header, kept_.data(), sizeof header);
  if (!kept_paid_ && !take_tokens(size - kNetHeaderSize)) {
    turn = later();
    return false;
  }
  kept_paid_ = true;
  const bool fits = TRY(stage_or_ask(size));
  if (!may_have(header)) {
    drop(size, "needs an offload that the driver does not have");
  } else if (fits) {
    TRY(memory_->write_ranges(staged_ranges(), 0, kept_));
    TRY(deliver(header, size));
  } else if (staged_count() == (mergeable_ ? queue_->size() : 1U)) {
    drop(size, "does not fit all of the driver's buffers");
  } else {
    // A driver that is behind gives more; one that never has enough must not stop the queue.
    const int64_t now = monotonic_ns();
    if (kept_deadline_ns_ == 0) kept_deadline_ns_ = now + kPatienceNs;
    if (now < kept_deadline_ns_) {
      turn = {NetTurn::Next::kLater, kept_deadline_ns_ - now};
      return false;
    }
    drop(size, "waited too long for the driver's buffers");
  }
  kept_.clear();
  return true;
}

bool NetReceiver::take_tokens(uint32_t size) {
  if (!limiter_.limits()) return true;
  const int64_t now = monotonic_ns();
  if (limiter_.take(size, now)) return true;
  not_before_ns_ = now + limiter_.wait_ns(now);
  return false;
}

void NetReceiver::drop(uint32_t size, const char* why) {
  ++metrics_.failed_requests;
  if (lines_.allow())
    log_warning("net: drop a frame of {} bytes to the guest: {}, ignoring", size, why);
}

}  // namespace kiln::vmm
