// SPDX-License-Identifier: Apache-2.0
#include "tests/payloads/lib/interrupts.h"

#include "tests/payloads/lib/cpu.h"
#include "tests/payloads/lib/report.h"
#include "tests/payloads/lib/time.h"
#include "vmm/kvm/layout.h"

namespace {

// What the stubs of entry.cpp leave on the stack.
struct InterruptFrame {
  uint64_t vector;
  uint64_t error;
  uint64_t rip;
};

struct [[gnu::packed]] IdtPointer {
  uint16_t limit;
  uint64_t base;
};

struct Gate {
  uint64_t low;
  uint64_t high;
};

}  // namespace

extern "C" {
extern const char interrupt_stubs[];
void handle_interrupt(const InterruptFrame* frame);
}

namespace payload {

uint64_t patience = 5'000'000'000;

namespace {

namespace layout = kiln::vmm::layout;

// Intel SDM volume 3, table 11-1.
constexpr uint32_t kApicId = 0x20;
constexpr uint32_t kApicEoi = 0xb0;
constexpr uint32_t kApicSpurious = 0xf0;
constexpr uint32_t kApicCommandLow = 0x300;
constexpr uint32_t kApicCommandHigh = 0x310;
constexpr uint32_t kApicEnable = 0x100;
constexpr uint32_t kApicPending = 1U << 12;
// 82093AA: an index register and a window; redirection entry n at 0x10 + 2n.
constexpr uint64_t kIoapicIndex = layout::kIoapic;
constexpr uint64_t kIoapicWindow = layout::kIoapic + 0x10;
constexpr uint32_t kRedirection = 0x10;
constexpr uint32_t kRedirectionLevel = 1U << 15;
constexpr uint32_t kRedirectionMasked = 1U << 16;
constexpr uint64_t kPresentInterruptGate = 0x8e00;
constexpr uint64_t kCodeSelector = 0x18;
constexpr uint64_t kStubSize = 16;

alignas(16) Gate idt[kVectorEnd];
bool built;
uint32_t counts[kVectorEnd];
void (*handlers[kVectorEnd])(unsigned);

void build_idt() {
  for (unsigned vector = 0; vector < kVectorEnd; ++vector) {
    const uint64_t stub = reinterpret_cast<uint64_t>(interrupt_stubs) + vector * kStubSize;
    idt[vector].low = (stub & 0xffff) | (kCodeSelector << 16) | (kPresentInterruptGate << 32) |
                      ((stub & 0xffff'0000) << 32);
    idt[vector].high = stub >> 32;
  }
  built = true;
}

}  // namespace

void start_interrupts() {
  if (!built) build_idt();
  const IdtPointer pointer{sizeof idt - 1, reinterpret_cast<uint64_t>(idt)};
  asm volatile("lidt %0" : : "m"(pointer) : "memory");
  apic_write(kApicSpurious, kApicEnable | kSpuriousVector);
  enable_interrupts();
}

void set_handler(unsigned vector, void (*handler)(unsigned vector)) { handlers[vector] = handler; }

uint32_t interrupt_count(unsigned vector) {
  return __atomic_load_n(&counts[vector], __ATOMIC_RELAXED);
}

bool wait_for_interrupt(unsigned vector, uint32_t before) {
  return wait_until([=] { return interrupt_count(vector) != before; });
}

uint32_t ioapic_read(uint32_t index) {
  mmio_write32(kIoapicIndex, index);
  return mmio_read32(kIoapicWindow);
}

void ioapic_write(uint32_t index, uint32_t value) {
  mmio_write32(kIoapicIndex, index);
  mmio_write32(kIoapicWindow, value);
}

void route_gsi(unsigned gsi, unsigned vector, Trigger trigger, uint32_t apic_id) {
  ioapic_write(kRedirection + 2 * gsi + 1, apic_id << 24);
  ioapic_write(kRedirection + 2 * gsi,
               vector | (trigger == Trigger::kLevel ? kRedirectionLevel : 0));
}

void mask_gsi(unsigned gsi) { ioapic_write(kRedirection + 2 * gsi, kRedirectionMasked); }

uint32_t apic_read(uint32_t offset) { return mmio_read32(layout::kLapic + offset); }
void apic_write(uint32_t offset, uint32_t value) { mmio_write32(layout::kLapic + offset, value); }
uint32_t apic_id() { return apic_read(kApicId) >> 24; }

void send_command(uint32_t destination, uint32_t low) {
  apic_write(kApicCommandHigh, destination << 24);
  apic_write(kApicCommandLow, low);
  wait_until([] { return (apic_read(kApicCommandLow) & kApicPending) == 0; });
}

}  // namespace payload

void handle_interrupt(const InterruptFrame* frame) {
  using namespace payload;
  const auto vector = static_cast<unsigned>(frame->vector);
  if (vector < kFirstVector) {
    print("FAIL exception ");
    print_hex(vector);
    print(" error ");
    print_hex(frame->error);
    print(" at ");
    print_hex(frame->rip);
    print("\n");
    power_off();
  }
  if (handlers[vector] != nullptr) handlers[vector](vector);
  __atomic_add_fetch(&counts[vector], 1, __ATOMIC_RELAXED);
  if (vector != kSpuriousVector) apic_write(kApicEoi, 0);
}
