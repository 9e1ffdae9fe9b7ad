// SPDX-License-Identifier: Apache-2.0
// When a machine had got how far, for who wants to know where its start-up time goes.
#pragma once

#include <cstdint>
#include <ctime>
#include <string>
#include <utility>
#include <vector>

namespace kiln::vmm {

// Of CLOCK_MONOTONIC, in nanoseconds.
struct TimePoint {
  int64_t ns = 0;
  static TimePoint now() {
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC, &time);
    return {int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec};
  }
};

class Stages {
 public:
  explicit Stages(TimePoint start) : start_(start) {}
  void reached(const char* name) {
    entries_.emplace_back(name, (TimePoint::now().ns - start_.ns) / 1000);
  }
  // Microseconds since the start.
  const std::vector<std::pair<std::string, int64_t>>& entries() const { return entries_; }
  TimePoint start() const { return start_; }

 private:
  TimePoint start_;
  std::vector<std::pair<std::string, int64_t>> entries_;
};

}  // namespace kiln::vmm
