// SPDX-License-Identifier: Apache-2.0
#include "tests/payloads/lib/report.h"

#include "tests/payloads/lib/arguments.h"
#include "tests/payloads/lib/cpu.h"
#include "vmm/kvm/layout.h"

namespace payload {
namespace {

namespace layout = kiln::vmm::layout;

const char* prefix = "";

void begin(const char* verdict, const char* name) {
  print(verdict);
  if (*prefix != 0) {
    print(prefix);
    print(".");
  }
  print(name);
}

}  // namespace

void print(const char* text) {
  for (; *text != 0; ++text) out8(layout::kSerialPort, static_cast<uint8_t>(*text));
}

void print_hex(uint64_t value) {
  char text[19];
  char* at = text + 18;
  *at = 0;
  do {
    *--at = "0123456789abcdef"[value & 15];
    value >>= 4;
  } while (value != 0);
  *--at = 'x';
  *--at = '0';
  print(at);
}

bool check(bool good, const char* name) {
  begin(good ? "ok " : "FAIL ", name);
  print("\n");
  return good;
}

bool check_equal(uint64_t actual, uint64_t expected, const char* name) {
  if (actual == expected) return check(true, name);
  begin("FAIL ", name);
  print(": ");
  print_hex(actual);
  print(" instead of ");
  print_hex(expected);
  print("\n");
  return false;
}

void set_prefix(const char* text) { prefix = text; }

void halt_for_ever() {
  while (true) {
    disable_interrupts();
    halt();
  }
}

void power_off() {
  const auto value = static_cast<uint8_t>((layout::kSleepTypeS5 << layout::kSleepTypeShift) |
                                          layout::kSleepEnable);
  out8(static_cast<uint16_t>(argument("sleep", layout::kSleepControlPort)), value);
  halt_for_ever();
}

void reset_machine() {
  out8(static_cast<uint16_t>(argument("reset", layout::kResetPort)), layout::kResetValue);
  halt_for_ever();
}

void triple_fault() {
  // No vector is in an empty table, and neither is the double fault's.
  struct [[gnu::packed]] {
    uint16_t limit = 0;
    uint64_t base = 0;
  } const empty;
  asm volatile("lidt %0\n\tud2" : : "m"(empty) : "memory");
  halt_for_ever();
}

void finish() {
  print("done\n");
  power_off();
}

void give_up(const char* name) {
  check(false, name);
  finish();
}

}  // namespace payload
