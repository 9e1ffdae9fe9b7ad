// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "vmm/api/vm_config.h"

namespace kiln::vmm {

// Bytes and operations per time, as two token buckets in the way of Firecracker's rate limiters.
// Used on one thread. Times are nanoseconds of one monotonic clock, whichever the caller has.
class RateLimiter {
 public:
  RateLimiter() = default;  // no limit
  explicit RateLimiter(const RateLimiterConfig& config);

  bool limits() const { return bytes_.limited() || operations_.limited(); }
  // Takes the tokens of one operation of `bytes`. False, and a hit is counted: not before
  // wait_ns() has passed. An operation larger than the bucket empties it, and those after it pay.
  bool take(uint64_t bytes, int64_t now_ns);
  // How long until an operation that was refused may go on; at least 1.
  int64_t wait_ns(int64_t now_ns);
  uint64_t hits() const { return hits_; }

 private:
  class Bucket {
   public:
    Bucket() = default;
    explicit Bucket(const TokenBucketConfig& config);
    bool limited() const { return size_ != 0; }
    void refill(int64_t now_ns);
    bool has_some() const { return size_ == 0 || burst_ != 0 || tokens_ > 0; }
    void take(uint64_t count);
    int64_t wait_ns() const;

   private:
    int64_t size_ = 0;  // 0: no limit
    int64_t refill_ns_ = 1;
    int64_t tokens_ = 0;  // below zero: owed
    int64_t burst_ = 0;
    int64_t last_ns_ = INT64_MIN;
  };

  Bucket bytes_;
  Bucket operations_;
  uint64_t hits_ = 0;
};

}  // namespace kiln::vmm
