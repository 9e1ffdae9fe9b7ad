// SPDX-License-Identifier: Apache-2.0
// Bounded waiting. There is no timer: the time stamp counter is enough to give up by.
#pragma once

#include <cstdint>

#include "tests/payloads/lib/cpu.h"

namespace payload {

// About two seconds on what runs at 2–3 GHz; nobody waits that long unless something is broken.
constexpr uint64_t kPatience = 5'000'000'000;
// Long enough for a device thread to have done something, had it wanted to.
constexpr uint64_t kMoment = 20'000'000;

template <typename Condition>
bool wait_until(Condition condition, uint64_t ticks = kPatience) {
  const uint64_t start = read_tsc();
  while (true) {
    if (condition()) return true;
    if (read_tsc() - start > ticks) return condition();
    relax();
  }
}

inline void pass_time(uint64_t ticks = kMoment) {
  wait_until([] { return false; }, ticks);
}

}  // namespace payload
