// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/net/transmitter.h"

#include <climits>

#include "base/file.h"
#include "base/format.h"

namespace kiln::vmm {

void NetTransmitter::start(std::shared_ptr<const GuestMemory> memory, Queue* queue) {
  memory_ = std::move(memory);
  queue_ = queue;
  // It may have been ours before.
  if (queue_ != nullptr) queue_->set_notification(true);
  wants_kicks_ = true;
}

void NetTransmitter::stop() {
  // Chains are pushed or taken back within a turn, so the queue is as it should be.
  memory_.reset();
  queue_ = nullptr;
  paid_ = false;
}

Result<bool> NetTransmitter::next_chain() {
  bool found = TRY(queue_->pop(chain_));
  if (!found && !wants_kicks_) {
    queue_->set_notification(true);
    wants_kicks_ = true;
    found = TRY(queue_->pop(chain_));
  }
  if (found && wants_kicks_) {
    queue_->set_notification(false);
    wants_kicks_ = false;
  }
  return found;
}

Result<NetTurn> NetTransmitter::run() {
  if (queue_ == nullptr) return NetTurn{};
  if (blocked_) return NetTurn{NetTurn::Next::kWaitWritable};
  if (not_before_ns_ != 0) {
    const int64_t now = monotonic_ns();
    if (now < not_before_ns_) return NetTurn{NetTurn::Next::kLater, not_before_ns_ - now};
    not_before_ns_ = 0;
  }
  uint64_t bytes = 0;
  for (unsigned frames = 0; frames < kFramesPerTurn && bytes < kBytesPerTurn; ++frames) {
    if (!TRY(next_chain())) return NetTurn{};
    // virtio 1.2 §5.1.6.2: a packet to send is read, never written.
    if (chain_.writable_size != 0)
      return invalid_argument("net: a transmit buffer is device-writable");
    const uint32_t size = chain_.readable_size;  // guest-controlled
    if (size < kNetHeaderSize + kSmallestFrame || size > kNetHeaderSize + kLargestFrame) {
      drop("is too short or too long");
    } else if (gone_) {
      drop("has no tap to go to");
    } else if (!take_tokens(size - kNetHeaderSize)) {
      queue_->undo_pop();
      return NetTurn{NetTurn::Next::kLater, not_before_ns_ - monotonic_ns()};
    } else if (TRY(send(size - kNetHeaderSize)) == Sent::kBlocked) {
      queue_->undo_pop();
      blocked_ = true;
      return NetTurn{NetTurn::Next::kWaitWritable};
    }
    paid_ = false;
    bytes += size;
    TRY(queue_->push_used(chain_.head, 0));
  }
  return NetTurn{NetTurn::Next::kAgain};
}

bool NetTransmitter::take_tokens(uint32_t frame_size) {
  if (!limiter_.limits() || paid_) return true;
  const int64_t now = monotonic_ns();
  if (limiter_.take(frame_size, now)) {
    paid_ = true;
    return true;
  }
  not_before_ns_ = now + limiter_.wait_ns(now);
  return false;
}

Result<NetTransmitter::Sent> NetTransmitter::send(uint32_t frame_size) {
  iovecs_.clear();
  TRY(memory_->append_iovecs(chain_.readable, 0, chain_.readable_size, iovecs_));
  list_.clear();
  for (const iovec& piece : iovecs_) append_joined(list_, piece);
  if (list_.size() > IOV_MAX) {
    drop("is in too many pieces");
    return Sent::kDone;
  }
  const ssize_t written =
      retry_eintr([this] { return writev(tap_, list_.data(), static_cast<int>(list_.size())); });
  if (written >= 0) {
    ++metrics_.requests;
    metrics_.bytes_from_guest += frame_size;
    return Sent::kDone;
  }
  if (errno == EAGAIN) return Sent::kBlocked;
  // EBADFD: the interface was deleted. EIO: it is down. EINVAL: the header does not fit the frame.
  // ENOBUFS, ENOMEM: the host is short of memory. A network may lose any frame; a wait would only
  // make the guest's queue stand still.
  if (errno == EBADFD) gone_ = true;
  drop(errno_text(errno).c_str());
  return Sent::kDone;
}

void NetTransmitter::drop(const char* why) {
  ++metrics_.failed_requests;
  if (lines_.allow())
    log_warning("net: drop a frame of {} bytes from the guest: {}, ignoring", chain_.readable_size,
                why);
}

}  // namespace kiln::vmm
