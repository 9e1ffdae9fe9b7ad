// SPDX-License-Identifier: Apache-2.0
// Which system calls each kind of thread may make. To add a device, look here for what it calls;
// what is not in its thread's table kills the process (syscall_filter.h).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>

namespace kiln::vmm {

enum class ThreadKind {
  kVcpu,    // kiln-vmm run: runs guest code, handles exits
  kDevice,  // kiln-vmm run: all devices and their back ends
  kApi,     // kiln-vmm run: the main thread, which talks to the owner
  kFs,      // kiln-vmm fs: all threads
};

constexpr const char* name_of(ThreadKind kind) {
  constexpr const char* kNames[] = {"vcpu", "device", "api", "fs"};
  return kNames[static_cast<unsigned>(kind)];
}

// On one argument, of which the lower 32 bits are looked at: all of these arguments are ints to the
// kernel, or sets of flags that fit.
struct ArgumentCondition {
  enum class Kind {
    kNone,
    kOneOf,         // it is one of `values`
    kWithoutFlags,  // no bit of values[0] is set
    kOwnProcess,    // it is the number of the calling process
  };
  static constexpr unsigned kMaxValues = 16;

  Kind kind = Kind::kNone;
  unsigned argument = 0;  // 0..5
  unsigned count = 0;
  uint32_t values[kMaxValues] = {};
};

constexpr ArgumentCondition one_of(unsigned argument, std::initializer_list<unsigned long> values) {
  ArgumentCondition condition{ArgumentCondition::Kind::kOneOf, argument, 0, {}};
  for (const unsigned long value : values)
    condition.values[condition.count++] = static_cast<uint32_t>(value);
  return condition;
}
constexpr ArgumentCondition without_flags(unsigned argument, uint32_t flags) {
  return {ArgumentCondition::Kind::kWithoutFlags, argument, 1, {flags}};
}
constexpr ArgumentCondition own_process(unsigned argument) {
  return {ArgumentCondition::Kind::kOwnProcess, argument, 0, {}};
}

struct SyscallRule {
  int number;
  const char* name;
  const char* why;
  ArgumentCondition condition;  // fails: the next rule for the same call is tried
  int error = 0;                // not 0: the call is not made but fails with this errno
};

// Parts in the order in which they are tried; a call that no rule allows is denied.
using SyscallTable = std::span<const std::span<const SyscallRule>>;
SyscallTable syscall_table(ThreadKind kind);

}  // namespace kiln::vmm
