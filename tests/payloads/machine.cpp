// SPDX-License-Identifier: Apache-2.0
// The machine itself: what is at ports and addresses that nobody owns, processor identification,
// interrupts, and the ways to end. `end=` on the command line says which: poweroff (also the
// default), reset, triple-fault, halt.
#include <asm/kvm_para.h>

#include "tests/payloads/lib/arguments.h"
#include "tests/payloads/lib/cpu.h"
#include "tests/payloads/lib/interrupts.h"
#include "tests/payloads/lib/payload.h"
#include "tests/payloads/lib/report.h"
#include "tests/payloads/lib/time.h"
#include "vmm/kvm/layout.h"

extern "C" char bss_start[];
extern "C" char bss_end[];

namespace payload {
namespace {

namespace layout = kiln::vmm::layout;

constexpr unsigned kSelfVector = 33;
constexpr unsigned kGsiVector = 34;
constexpr uint32_t kToSelf = 1U << 18;      // shorthand of the interrupt command register
constexpr uint32_t kRedirectionPin = 0x10;  // I/O APIC, entry 0
constexpr uint32_t kMaskedEdge = 1U << 16;

// Untouched by the runtime, at the end of what the loader must zero.
char untouched[8192];

void check_start() {
  check(has_start_info(), "start-info");
  check(low_memory().size != 0, "memory-map-has-ram");
  bool zero = true;
  for (const char& byte : untouched) {
    if (byte != 0) zero = false;
  }
  check(zero, "bss-is-zero");
}

void check_unowned_ports() {
  constexpr uint16_t kNobodys = 0x5f0;
  check_equal(in8(kNobodys), 0xff, "unknown-port-reads-ones-8");
  check_equal(in16(kNobodys), 0xffff, "unknown-port-reads-ones-16");
  check_equal(in32(kNobodys), 0xffff'ffff, "unknown-port-reads-ones-32");
  out8(kNobodys, 0x55);
  check(true, "unknown-port-write-is-ignored");
}

void check_unowned_memory() {
  // The first page of the hole, and the last slot's last page.
  const uint64_t place = argument("hole", layout::kHoleStart + 0x10'0000);
  check_equal(mmio_read8(place), 0xff, "unknown-address-reads-ones-8");
  check_equal(mmio_read16(place + 2), 0xffff, "unknown-address-reads-ones-16");
  check_equal(mmio_read32(place + 4), 0xffff'ffff, "unknown-address-reads-ones-32");
  check_equal(mmio_read64(place + 8), UINT64_MAX, "unknown-address-reads-ones-64");
  mmio_write32(place, 0);
  check_equal(mmio_read32(place), 0xffff'ffff, "unknown-address-write-is-ignored");
}

void check_cpuid() {
  constexpr uint32_t kHypervisorBit = 1U << 31;
  constexpr uint32_t kTscDeadline = 1U << 24;
  check((cpuid(1).ecx & kHypervisorBit) != 0, "cpuid-hypervisor-bit");
  check((cpuid(1).ecx & kTscDeadline) != 0, "cpuid-tsc-deadline");
  const CpuidResult signature = cpuid(KVM_CPUID_SIGNATURE);
  check(signature.ebx == 0x4b4d564b && signature.ecx == 0x564b4d56 && signature.edx == 0x4d,
        "cpuid-signature-is-kvm");
  check(signature.eax >= KVM_CPUID_FEATURES, "cpuid-has-kvm-features");
  check((cpuid(KVM_CPUID_FEATURES).eax & (1U << KVM_FEATURE_CLOCKSOURCE2)) != 0, "cpuid-kvmclock");
  // The timing leaf that VMware defined and KVM guests read: kHz of the TSC in EAX.
  const uint32_t khz = signature.eax >= 0x4000'0010 ? cpuid(0x4000'0010).eax : 0;
  check(khz > 100'000 && khz < 10'000'000, "cpuid-tsc-khz");
  check_equal(cpuid(1).ebx >> 24, apic_id(), "cpuid-apic-id");
}

void check_interrupts() {
  uint32_t before = interrupt_count(kSelfVector);
  send_command(0, kToSelf | kSelfVector);
  check(wait_for_interrupt(kSelfVector, before), "self-ipi-arrives");

  before = interrupt_count(kSelfVector);
  disable_interrupts();
  send_command(0, kToSelf | kSelfVector);
  check(interrupt_count(kSelfVector) == before, "no-interrupt-while-disabled");
  enable_interrupts_and_halt();
  check_equal(interrupt_count(kSelfVector), before + 1, "interrupt-ends-halt");
}

void check_ioapic() {
  check_equal(ioapic_read(kRedirectionPin) & kMaskedEdge, kMaskedEdge, "ioapic-starts-masked");
  check((ioapic_read(1) >> 16 & 0xff) >= layout::kSerialGsi, "ioapic-has-a-pin-for-each-gsi");
  route_gsi(3, kGsiVector, Trigger::kEdge);
  check_equal(ioapic_read(0x10 + 6) & 0xff, kGsiVector, "ioapic-keeps-the-vector");
  // Delivery status and remote IRR are not the driver's.
  ioapic_write(0x10 + 6, kMaskedEdge | 0x5000 | kGsiVector);
  check_equal(ioapic_read(0x10 + 6) & 0x5000, 0, "ioapic-read-only-bits");
  mask_gsi(3);
  // Registers that do not exist.
  ioapic_write(0xff, 0xffff'ffff);
  ioapic_read(0xff);
  check(true, "ioapic-survives-unknown-registers");
}

// The transmitter's interrupt of the serial port: the one line that a machine without devices has.
void check_serial_interrupt() {
  constexpr uint16_t kInterruptEnable = layout::kSerialPort + 1;
  constexpr uint16_t kInterruptIdentity = layout::kSerialPort + 2;
  constexpr uint8_t kTransmitterEmpty = 2;
  route_gsi(layout::kSerialGsi, kGsiVector, Trigger::kEdge);
  const uint32_t before = interrupt_count(kGsiVector);
  out8(kInterruptEnable, kTransmitterEmpty);
  check(wait_for_interrupt(kGsiVector, before), "serial-transmitter-interrupt");
  in8(kInterruptIdentity);
  out8(kInterruptEnable, 0);
  mask_gsi(layout::kSerialGsi);
}

}  // namespace

void run() {
  check_start();
  check_unowned_ports();
  check_unowned_memory();
  check_cpuid();
  check_interrupts();
  check_ioapic();
  check_serial_interrupt();
  if (has_argument("end=reset")) {
    print("done\n");
    reset_machine();
  }
  if (has_argument("end=triple-fault")) {
    print("done\n");
    triple_fault();
  }
  if (has_argument("end=halt")) {
    print("done\n");
    halt_for_ever();
  }
}

}  // namespace payload
