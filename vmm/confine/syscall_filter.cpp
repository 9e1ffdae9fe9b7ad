// SPDX-License-Identifier: Apache-2.0
#include "vmm/confine/syscall_filter.h"

#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <cstddef>
#include <cstring>

#include "base/format.h"

namespace kiln::vmm {
namespace {

#if defined(__x86_64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#else
#error "seccomp filters need this architecture's AUDIT_ARCH_*"
#endif

// No system call: what the reporting handler ends the process with.
constexpr uint32_t kEndNumber = 0xfffe;

// Lower halves come first: both architectures are little-endian.
uint32_t argument_offset(unsigned argument) {
  return static_cast<uint32_t>(offsetof(seccomp_data, args) + sizeof(uint64_t) * argument);
}

class Assembler {
 public:
  void load(uint32_t offset) { add(BPF_LD | BPF_W | BPF_ABS, offset); }
  void load_number() { load(offsetof(seccomp_data, nr)); }
  void answer(uint32_t action) { add(BPF_RET | BPF_K, action); }
  // Jumps count the instructions that are skipped.
  void jump_if_equal(uint32_t value, uint8_t if_true, uint8_t if_false) {
    add(BPF_JMP | BPF_JEQ | BPF_K, value, if_true, if_false);
  }
  void jump_if_any_bit(uint32_t bits, uint8_t if_true, uint8_t if_false) {
    add(BPF_JMP | BPF_JSET | BPF_K, bits, if_true, if_false);
  }
  void jump(uint32_t count) { add(BPF_JMP | BPF_JA, count); }

  std::vector<sock_filter>& program() { return program_; }

 private:
  void add(unsigned code, uint32_t k, uint8_t if_true = 0, uint8_t if_false = 0) {
    program_.push_back({static_cast<uint16_t>(code), if_true, if_false, k});
  }

  std::vector<sock_filter> program_;
};

// With the number of the call loaded, before and after.
void assemble_rule(Assembler& out, const SyscallRule& rule, pid_t self) {
  const ArgumentCondition& condition = rule.condition;
  const uint32_t action =
      rule.error == 0 ? SECCOMP_RET_ALLOW : SECCOMP_RET_ERRNO | static_cast<uint32_t>(rule.error);
  const auto number = static_cast<uint32_t>(rule.number);
  switch (condition.kind) {
    case ArgumentCondition::Kind::kNone:
      out.jump_if_equal(number, 0, 1);
      break;
    case ArgumentCondition::Kind::kOneOf: {
      const auto count = static_cast<uint8_t>(condition.count);
      out.jump_if_equal(number, 0, static_cast<uint8_t>(count + 4));
      out.load(argument_offset(condition.argument));
      for (uint8_t i = 0; i < count; ++i)
        out.jump_if_equal(condition.values[i], static_cast<uint8_t>(count - i + 1), 0);
      out.load_number();
      out.jump(1);
      break;
    }
    case ArgumentCondition::Kind::kWithoutFlags:
      out.jump_if_equal(number, 0, 5);
      out.load(argument_offset(condition.argument));
      out.jump_if_any_bit(condition.values[0], 0, 2);
      out.load_number();
      out.jump(1);
      break;
    case ArgumentCondition::Kind::kOwnProcess:
      out.jump_if_equal(number, 0, 5);
      out.load(argument_offset(condition.argument));
      out.jump_if_equal(static_cast<uint32_t>(self), 2, 0);
      out.load_number();
      out.jump(1);
      break;
  }
  out.answer(action);
}

thread_local const char* reported_kind = "";

// Async-signal-safe. The number is written by hand: a formatter might call malloc.
[[noreturn]] void report_denial(int, siginfo_t* info, void*) {
  char line[96] = "kiln-vmm: system call ";
  size_t size = std::strlen(line);
  char digits[12];
  size_t count = 0;
  for (unsigned rest = static_cast<unsigned>(info->si_syscall); count == 0 || rest != 0; rest /= 10)
    digits[count++] = static_cast<char>('0' + rest % 10);
  while (count != 0) line[size++] = digits[--count];
  for (const char* text : {" is not in the table of threads of kind ", reported_kind, "\n"}) {
    const size_t length = std::strlen(text);
    std::memcpy(line + size, text, length);
    size += length;
  }
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line, size);
  while (true) syscall(kEndNumber);
}

Result<void> handle_denials(ThreadKind kind) {
  reported_kind = name_of(kind);
  struct sigaction action {};
  action.sa_sigaction = [](int number, siginfo_t* info, void* context) {
    report_denial(number, info, context);
  };
  action.sa_flags = SA_SIGINFO;
  return sigaction(SIGSYS, &action, nullptr) == 0 ? Result<void>()
                                                  : sys_error("handle denied system calls");
}

}  // namespace

std::vector<sock_filter> assemble_filter(SyscallTable table, pid_t self, Denial denial) {
  Assembler out;
  out.load(offsetof(seccomp_data, arch));
  out.jump_if_equal(kArchitecture, 1, 0);
  out.answer(SECCOMP_RET_KILL_PROCESS);
  // x32's numbers have a bit of their own, and so are in no table.
  out.load_number();
  for (const std::span<const SyscallRule> part : table) {
    for (const SyscallRule& rule : part) assemble_rule(out, rule, self);
  }
  if (denial == Denial::kReport) {
    out.jump_if_equal(kEndNumber, 1, 0);
    out.answer(SECCOMP_RET_TRAP);
  }
  out.answer(SECCOMP_RET_KILL_PROCESS);
  return std::move(out.program());
}

Result<void> install_filter(ThreadKind kind, Denial denial) {
  if (denial == Denial::kReport) TRY(handle_denials(kind));
  std::vector<sock_filter> program = assemble_filter(syscall_table(kind), getpid(), denial);
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return sys_error("set no_new_privs");
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) != 0)
    return sys_error(format("filter the system calls of a thread of kind `{}`", name_of(kind)));
  return {};
}

}  // namespace kiln::vmm
