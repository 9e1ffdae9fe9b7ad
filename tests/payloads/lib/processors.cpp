// SPDX-License-Identifier: Apache-2.0
#include "tests/payloads/lib/processors.h"

#include <cstring>

#include "tests/payloads/lib/interrupts.h"
#include "tests/payloads/lib/report.h"
#include "tests/payloads/lib/time.h"

extern "C" {
extern const char real_mode_start[];
extern const char real_mode_end[];
extern uint32_t processors_started;
[[noreturn]] void processor_start(uint32_t index);
}

namespace payload {
namespace {

// A page below 1 MiB that nothing else uses; the SIPI's vector is its number.
constexpr uint32_t kStartPage = 0x10;
// Intel SDM volume 3, §11.6.1: delivery modes INIT and start-up, level asserted.
constexpr uint32_t kInit = 0x4500;
constexpr uint32_t kStartUp = 0x4600;

void (*work_of[kMaxProcessors])(unsigned);
unsigned finished;

}  // namespace

bool start_processor(uint32_t apic_id, void (*work)(unsigned index)) {
  const uint32_t before = __atomic_load_n(&processors_started, __ATOMIC_ACQUIRE);
  if (before >= kMaxProcessors) return false;
  work_of[before] = work;
  memcpy(reinterpret_cast<void*>(uint64_t{kStartPage} << 12), real_mode_start,
         static_cast<size_t>(real_mode_end - real_mode_start));
  send_command(apic_id, kInit);
  send_command(apic_id, kStartUp | kStartPage);
  return wait_until(
      [=] { return __atomic_load_n(&processors_started, __ATOMIC_ACQUIRE) != before; });
}

unsigned processors_finished() { return __atomic_load_n(&finished, __ATOMIC_ACQUIRE); }

}  // namespace payload

void processor_start(uint32_t index) {
  using namespace payload;
  start_interrupts();
  work_of[index](index);
  __atomic_add_fetch(&finished, 1, __ATOMIC_RELEASE);
  halt_for_ever();
}
