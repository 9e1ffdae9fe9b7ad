// SPDX-License-Identifier: Apache-2.0
// Further processors.
#pragma once

#include <cstdint>

namespace payload {

constexpr unsigned kMaxProcessors = 8;

// Starts the processor with this APIC id by INIT and SIPI; it runs `work(index)` with interrupts
// enabled and halts. False when it does not come up.
bool start_processor(uint32_t apic_id, void (*work)(unsigned index));
// How many have ended their work.
unsigned processors_finished();

}  // namespace payload
