// SPDX-License-Identifier: Apache-2.0
// Where things are in the built-in machine: guest-physical addresses, I/O ports, interrupts.
// Freestanding: the test guests of tests/payloads include it too.
#pragma once

#include <cstdint>

namespace kiln::vmm::layout {

// RAM starts at 0. What does not fit below the hole continues at 4 GiB.
constexpr uint64_t kHoleStart = 0xc000'0000;
constexpr uint64_t kHoleEnd = 0x1'0000'0000;

// Written before the first instruction, in RAM below 1 MiB.
constexpr uint64_t kGdt = 0x500;
constexpr uint64_t kStartInfo = 0x6000;  // PVH: hvm_start_info, its module and its memory map
constexpr uint64_t kCommandLine = 0x2'0000;
constexpr uint64_t kMaxCommandLine = 2048;  // with the NUL; x86's COMMAND_LINE_SIZE
// The RSDP and all tables behind it. Reserved in the memory map.
constexpr uint64_t kAcpi = 0xe'0000;
constexpr uint64_t kAcpiEnd = 0x10'0000;
// A kernel is loaded from here on, and the initramfs at the end of low memory.
constexpr uint64_t kHighMemory = 0x10'0000;

// One virtio-mmio device a page and a GSI.
constexpr uint64_t kMmioStart = 0xd000'0000;
constexpr uint64_t kMmioSlotSize = 0x1000;
constexpr unsigned kMaxSlots = 24;
// From the I/O APIC's first pins on: a kernel visits every pin there is, at some twenty exits each.
// Not the first three: Linux takes an interrupt there for the timer's, number 0, which is none.
constexpr unsigned kFirstGsi = 3;
constexpr uint64_t slot_address(unsigned slot) { return kMmioStart + slot * kMmioSlotSize; }
constexpr unsigned slot_gsi(unsigned slot) { return kFirstGsi + slot; }

// Pins of the I/O APIC.
constexpr unsigned ioapic_pins(unsigned slots, bool serial_console) {
  return serial_console ? kFirstGsi + kMaxSlots + 1 : slot_gsi(slots);
}

constexpr uint64_t kIoapic = 0xfec0'0000;
constexpr uint64_t kIoapicSize = 0x1000;
constexpr uint64_t kLapic = 0xfee0'0000;
// KVM's own pages, which must not be RAM (KVM_SET_TSS_ADDR takes three; Intel only).
constexpr uint64_t kTss = 0xfffb'd000;
constexpr uint64_t kIdentityMap = 0xfffb'c000;

// ACPI 6.5 §4.8.3.7: the sleep registers of a hardware-reduced machine; behind them the reset
// register of the FADT.
constexpr uint16_t kSleepControlPort = 0x600;
constexpr uint16_t kSleepStatusPort = 0x601;
constexpr uint16_t kResetPort = 0x602;
constexpr uint8_t kResetValue = 0x01;
constexpr uint8_t kSleepTypeS5 = 5;        // SLP_TYP, as \_S5 in the DSDT says
constexpr uint8_t kSleepEnable = 1U << 5;  // SLP_EN
constexpr unsigned kSleepTypeShift = 2;    // of SLP_TYP in the sleep control register

// Only where the boot document asks for a serial console.
constexpr uint16_t kSerialPort = 0x3f8;
constexpr unsigned kSerialGsi = kFirstGsi + kMaxSlots;  // behind all slots

}  // namespace kiln::vmm::layout
