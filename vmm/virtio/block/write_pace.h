// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

namespace kiln::vmm {

// Decides whether a write is tried on the device's own thread. As long as the page cache takes
// writes at the speed of memory, that is the fastest; once one had to wait (for dirty pages to be
// written back, for a journal), the next ones are left to workers for a while, and for longer each
// time a new attempt waits again. Times are nanoseconds of a monotonic clock.
class WritePace {
 public:
  static constexpr int64_t kSlow = 10'000'000;
  static constexpr int64_t kFirstPause = 1'000'000'000;
  static constexpr int64_t kLastPause = 32 * kFirstPause;

  bool try_at(int64_t now) const { return now >= not_before_; }
  // What a write that was tried took.
  void took(int64_t start, int64_t end) {
    if (end - start >= kSlow) {
      not_before_ = end + pause_;
      pause_ = std::min(2 * pause_, kLastPause);
    } else if (end - not_before_ >= pause_) {
      pause_ = kFirstPause;
    }
  }

 private:
  int64_t not_before_ = 0;
  int64_t pause_ = kFirstPause;
};

}  // namespace kiln::vmm
