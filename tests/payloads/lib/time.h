// SPDX-License-Identifier: Apache-2.0
// Bounded waiting. There is no timer: the time stamp counter is enough to give up by.
#pragma once

#include <cstdint>

#include "tests/payloads/lib/cpu.h"

namespace payload {

// How long to wait for what must come: at first about two seconds on what runs at 2–3 GHz. Where
// much is broken it becomes less with every disappointment, so that a payload ends soon.
extern uint64_t patience;
// Long enough for a device thread to have done something, had it wanted to.
constexpr uint64_t kMoment = 20'000'000;

template <typename Condition>
bool wait_ticks(Condition condition, uint64_t ticks) {
  const uint64_t start = read_tsc();
  while (true) {
    if (condition()) return true;
    if (read_tsc() - start > ticks) return condition();
    relax();
  }
}

template <typename Condition>
bool wait_until(Condition condition) {
  if (wait_ticks(condition, patience)) return true;
  patience -= patience / 4;
  return false;
}

inline void pass_time(uint64_t ticks = kMoment) {
  wait_ticks([] { return false; }, ticks);
}

}  // namespace payload
