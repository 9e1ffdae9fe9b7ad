// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/rate_limiter.h"

#include <algorithm>

namespace kiln::vmm {
namespace {

// Not ISO C++, but known to GCC and clang alike: what a product of tokens and nanoseconds needs.
__extension__ using Int128 = __int128;

constexpr uint64_t kMostTokens = uint64_t{1} << 60;
constexpr int64_t kNsPerMs = 1'000'000;
// Ten years: what is computed from it fits in nanoseconds.
constexpr uint64_t kMostRefillMs = 315'360'000'000;

}  // namespace

RateLimiter::Bucket::Bucket(const TokenBucketConfig& config)
    : size_(static_cast<int64_t>(std::min(config.size, kMostTokens))),
      refill_ns_(
          static_cast<int64_t>(std::clamp<uint64_t>(config.refill_time_ms, 1, kMostRefillMs)) *
          kNsPerMs),
      tokens_(size_),
      burst_(static_cast<int64_t>(std::min(config.one_time_burst, kMostTokens))) {}

void RateLimiter::Bucket::refill(int64_t now_ns) {
  if (size_ == 0) return;
  if (last_ns_ == INT64_MIN) last_ns_ = now_ns;
  const int64_t elapsed = now_ns - last_ns_;
  if (elapsed <= 0) return;
  const auto gained = static_cast<int64_t>(
      std::min<Int128>(static_cast<Int128>(elapsed) * size_ / refill_ns_, size_ - tokens_));
  if (gained <= 0) {
    // A full bucket does not save up time; a fraction of a token does.
    if (tokens_ >= size_) last_ns_ = now_ns;
    return;
  }
  tokens_ += gained;
  // The time that paid for whole tokens is spent.
  last_ns_ =
      tokens_ >= size_
          ? now_ns
          : last_ns_ + static_cast<int64_t>(static_cast<Int128>(gained) * refill_ns_ / size_);
}

void RateLimiter::Bucket::take(uint64_t count) {
  if (size_ == 0) return;
  auto wanted = static_cast<int64_t>(std::min(count, kMostTokens));
  const int64_t from_burst = std::min(burst_, wanted);
  burst_ -= from_burst;
  wanted -= from_burst;
  // What is owed is bounded, so that one request cannot stop the device for ever.
  tokens_ = std::max(tokens_ - std::min(wanted, size_ * 2), -size_);
}

int64_t RateLimiter::Bucket::wait_ns() const {
  if (has_some()) return 0;
  const Int128 missing = 1 - static_cast<Int128>(tokens_);
  return static_cast<int64_t>((missing * refill_ns_ + size_ - 1) / size_);
}

RateLimiter::RateLimiter(const RateLimiterConfig& config)
    : bytes_(config.bandwidth), operations_(config.ops) {}

bool RateLimiter::take(uint64_t bytes, int64_t now_ns) {
  bytes_.refill(now_ns);
  operations_.refill(now_ns);
  if (!bytes_.has_some() || !operations_.has_some()) {
    ++hits_;
    return false;
  }
  bytes_.take(bytes);
  operations_.take(1);
  return true;
}

int64_t RateLimiter::wait_ns(int64_t now_ns) {
  bytes_.refill(now_ns);
  operations_.refill(now_ns);
  return std::max<int64_t>({bytes_.wait_ns(), operations_.wait_ns(), 1});
}

}  // namespace kiln::vmm
