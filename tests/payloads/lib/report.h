// SPDX-License-Identifier: Apache-2.0
// What a payload says and how it ends. Each check is one line on the serial port: `ok NAME` or
// `FAIL NAME: what`; the last line is `done`. The host counts them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace payload {

void print(const char* text);
void print_hex(uint64_t value);

// Prints `ok name` or `FAIL name`. Returns `good`.
bool check(bool good, const char* name);
// The same, with both values where they differ.
bool check_equal(uint64_t actual, uint64_t expected, const char* name);
// Puts `prefix.` in front of the names of checks that follow; empty: nothing.
void set_prefix(const char* prefix);

// Ways to end. None of them returns; where the machine goes on, they halt.
[[noreturn]] void power_off();
[[noreturn]] void reset_machine();
[[noreturn]] void triple_fault();
[[noreturn]] void halt_for_ever();
// Prints `done` and powers off.
[[noreturn]] void finish();
// `FAIL name`, then finish(): what follows could not work.
[[noreturn]] void give_up(const char* name);

}  // namespace payload
