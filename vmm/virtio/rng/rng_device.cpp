// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/rng/rng_device.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>

namespace kiln::vmm {
namespace {

constexpr std::array<uint16_t, 1> kQueueSizes = {64};
constexpr unsigned kRequestQueue = 0;
// Then the other devices on the thread have their turn: a guest that keeps asking never makes us
// run out of requests.
constexpr int kRequestsPerTurn = 16;
constexpr int64_t kNsPerMs = 1'000'000;

int64_t now_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

}  // namespace

RngDevice::RngDevice(EventLoop& loop, const RateLimiterConfig& rate_limiter)
    : loop_(loop), rate_limiter_(rate_limiter) {}

Result<std::unique_ptr<RngDevice>> RngDevice::create(EventLoop& loop,
                                                     const RateLimiterConfig& rate_limiter) {
  // The seccomp table of the thread has getrandom; a kernel without it is found out here and not by
  // the first guest that asks.
  std::byte probe{};
  if (getrandom(&probe, sizeof probe, 0) != sizeof probe) return sys_error("get random bytes");
  return std::unique_ptr<RngDevice>(new RngDevice(loop, rate_limiter));
}

RngDevice::~RngDevice() { RngDevice::reset(); }

std::span<const uint16_t> RngDevice::queue_sizes() const { return kQueueSizes; }

void RngDevice::read_config(uint32_t, std::span<std::byte> out) const {
  // §5.4.4: there is no configuration, and what is not there reads as zero.
  std::fill(out.begin(), out.end(), std::byte{0});
}

Result<void> RngDevice::activate(Activation activation) {
  activation_ = std::move(activation);
  return {};
}

// Also what suspend() does: nothing that the guest relies on is in the device. A request that has
// to wait was put back into the queue and is found there again. The rate limiter keeps its tokens,
// or a guest would get new ones by resetting the device.
void RngDevice::reset() {
  activation_ = {};
  if (timer_) loop_.cancel_timer(*timer_);
  timer_.reset();
}

Result<void> RngDevice::process_queue(unsigned index) {
  // The transport leaves a queue null that the driver did not set up.
  if (index != kRequestQueue || index >= activation_.queues.size() ||
      activation_.queues[index] == nullptr)
    return {};
  if (timer_) return {};  // goes on when it is due
  Queue& queue = *activation_.queues[index];
  TRY(serve(queue));
  if (queue.needs_interrupt()) activation_.interrupt(index);
  return {};
}

Result<void> RngDevice::serve(Queue& queue) {
  queue.set_notification(false);  // we look by ourselves
  for (int served = 0; served < kRequestsPerTurn; ++served) {
    if (!TRY(queue.pop(chain_))) {
      queue.set_notification(true);
      // The driver may have added a buffer before it saw that.
      if (!queue.has_available()) return {};
      queue.set_notification(false);
      continue;
    }
    const uint32_t size = std::min(chain_.writable_size, kMaxRequest);
    if (!may_serve(size)) {
      queue.undo_pop();
      return {};
    }
    const uint32_t written = TRY(fill(size));
    TRY(queue.push_used(chain_.head, written));
  }
  continue_after(0);
  return {};
}

// Random bytes for the popped chain; how many of them.
Result<uint32_t> RngDevice::fill(uint32_t size) {
  ++metrics_.requests;
  // §5.4.6.1: the driver must not place device-readable buffers into the queue. There is no status
  // to answer with, so it gets its buffer back with nothing in it; likewise without any room.
  if (chain_.readable_size != 0 || size == 0) {
    ++metrics_.failed_requests;
    if (log_limit_.allow())
      log_warning("the guest's entropy driver sent a request that cannot be filled, ignoring");
    return 0;
  }
  buffers_.clear();
  TRY(activation_.memory->append_iovecs(chain_.writable, 0, size, buffers_));
  uint32_t written = 0;
  for (const iovec& buffer : buffers_) {
    size_t done = 0;
    while (done < buffer.iov_len) {
      // The kernel writes into the guest's memory; we never see the bytes.
      const ssize_t got =
          getrandom(static_cast<std::byte*>(buffer.iov_base) + done, buffer.iov_len - done, 0);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return sys_error("get random bytes");
      done += static_cast<size_t>(got);
    }
    written += static_cast<uint32_t>(done);
  }
  metrics_.bytes_to_guest += written;
  return written;
}

// False: not before a timer, which has been set.
bool RngDevice::may_serve(uint32_t size) {
  const int64_t now = now_ns();
  if (!rate_limiter_.limits() || rate_limiter_.take(size, now)) return true;
  continue_after((rate_limiter_.wait_ns(now) + kNsPerMs - 1) / kNsPerMs);
  return false;
}

void RngDevice::continue_after(int64_t milliseconds) {
  timer_ = loop_.add_timer(milliseconds, [this] {
    timer_.reset();
    const auto result = process_queue(kRequestQueue);
    // Nobody called us who could be told.
    if (!result && activation_.broken) activation_.broken(kRequestQueue, result.error());
  });
}

DeviceMetrics RngDevice::metrics() const {
  DeviceMetrics out = metrics_;
  out.rate_limiter_hits = rate_limiter_.hits();
  return out;
}

}  // namespace kiln::vmm
