// SPDX-License-Identifier: Apache-2.0
#include "agent/container/seccomp_filter.h"

#include <linux/audit.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>

#include "base/file.h"
#include "base/format.h"
#include "oci/spec.h"

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV  // Linux 5.19
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

namespace kiln::agent {
namespace {

struct FilterReleaser {
  void operator()(void* context) const { seccomp_release(context); }
};
using Filter = std::unique_ptr<void, FilterReleaser>;

// libseccomp returns negative errno values of its own meaning, and does not set errno.
tl::unexpected<Error> library_error(std::string_view what, int code) {
  return sys_error(fmt::format("linux.seccomp: {}", what), -code);
}

struct NamedFlag {
  const char* name;
  unsigned flag;
};

constexpr NamedFlag kFlags[] = {
    {"SECCOMP_FILTER_FLAG_TSYNC", SECCOMP_FILTER_FLAG_TSYNC},
    {"SECCOMP_FILTER_FLAG_LOG", SECCOMP_FILTER_FLAG_LOG},
    {"SECCOMP_FILTER_FLAG_SPEC_ALLOW", SECCOMP_FILTER_FLAG_SPEC_ALLOW},
};

Result<unsigned> flags_of(const oci::Strings& names) {
  unsigned flags = 0;
  for (const std::string& name : names) {
    // seccomp(2): EINVAL without a listener.
    if (name == "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV") {
      return make_error(ErrorKind::kUnimplemented,
                        fmt::format("linux.seccomp.flags `{}`: needs a listener, and there is no "
                                    "SCMP_ACT_NOTIFY in a microVM",
                                    name));
    }
    const auto* entry =
        std::find_if(std::begin(kFlags), std::end(kFlags),
                     [&](const NamedFlag& candidate) { return name == candidate.name; });
    if (entry == std::end(kFlags))
      return invalid_argument(fmt::format("linux.seccomp.flags `{}`: unknown flag", name));
    flags |= entry->flag;
  }
  return flags;
}

Result<uint32_t> action_of(const std::string& name, const std::optional<uint32_t>& errno_ret) {
  const uint32_t value = errno_ret.value_or(EPERM);
  if (name == "SCMP_ACT_ALLOW") return SCMP_ACT_ALLOW;
  if (name == "SCMP_ACT_ERRNO") return SCMP_ACT_ERRNO(value);
  if (name == "SCMP_ACT_KILL" || name == "SCMP_ACT_KILL_THREAD") return SCMP_ACT_KILL_THREAD;
  if (name == "SCMP_ACT_KILL_PROCESS") return SCMP_ACT_KILL_PROCESS;
  if (name == "SCMP_ACT_LOG") return SCMP_ACT_LOG;
  if (name == "SCMP_ACT_TRACE") return SCMP_ACT_TRACE(value);
  if (name == "SCMP_ACT_TRAP") return SCMP_ACT_TRAP;
  // The listener is a process of the host, which cannot look into the guest's processes.
  if (name == "SCMP_ACT_NOTIFY") {
    return make_error(ErrorKind::kUnimplemented,
                      "linux.seccomp: SCMP_ACT_NOTIFY is not supported in a microVM");
  }
  return invalid_argument(fmt::format("linux.seccomp: unknown action `{}`", name));
}

Result<scmp_arg_cmp> comparison_of(const oci::SyscallArg& arg) {
  struct NamedOperator {
    const char* name;
    scmp_compare compare;
  };
  constexpr NamedOperator operators[] = {
      {"SCMP_CMP_NE", SCMP_CMP_NE},
      {"SCMP_CMP_LT", SCMP_CMP_LT},
      {"SCMP_CMP_LE", SCMP_CMP_LE},
      {"SCMP_CMP_EQ", SCMP_CMP_EQ},
      {"SCMP_CMP_GE", SCMP_CMP_GE},
      {"SCMP_CMP_GT", SCMP_CMP_GT},
      {"SCMP_CMP_MASKED_EQ", SCMP_CMP_MASKED_EQ},
  };
  if (arg.index > 5) {
    return invalid_argument(
        fmt::format("linux.seccomp: argument index must be 0 to 5, is {}", arg.index));
  }
  for (const NamedOperator& entry : operators) {
    // SCMP_CMP_MASKED_EQ: (argument & value) == valueTwo.
    if (arg.op == entry.name)
      return scmp_arg_cmp{arg.index, entry.compare, arg.value, arg.value_two};
  }
  return invalid_argument(fmt::format("linux.seccomp: unknown operator `{}`", arg.op));
}

// SCMP_ARCH_PPC64LE → ppc64le; 0: libseccomp does not know it.
uint32_t architecture_of(std::string_view name) {
  constexpr std::string_view prefix = "SCMP_ARCH_";
  if (name.substr(0, prefix.size()) == prefix) name.remove_prefix(prefix.size());
  std::string lower(name);
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return seccomp_arch_resolve_name(lower.c_str());
}

// The architectures that the filter knows, the guest's own among them. One that libseccomp cannot
// combine with it (EDOM: the other byte order) or does not know is left out: no process of the
// guest can be of it, and the filter kills what is of an unknown architecture.
Result<std::vector<uint32_t>> add_architectures(scmp_filter_ctx filter, const oci::Strings& names) {
  std::vector<uint32_t> added = {seccomp_arch_native()};
  for (const std::string& name : names) {
    const uint32_t architecture = architecture_of(name);
    if (architecture == 0) continue;
    const int code = seccomp_arch_add(filter, architecture);
    if (code == -EEXIST || code == -EDOM) continue;
    if (code != 0) return library_error(fmt::format("add architecture `{}`", name), code);
    added.push_back(architecture);
  }
  return added;
}

Result<void> add_rule(scmp_filter_ctx filter, const oci::SyscallRule& rule, uint32_t action,
                      int syscall_number) {
  std::vector<scmp_arg_cmp> comparisons;
  std::array<unsigned, 6> uses{};
  bool index_repeats = false;
  for (const oci::SyscallArg& arg : rule.args) {
    comparisons.push_back(TRY(comparison_of(arg)));
    index_repeats |= ++uses[arg.index] > 1;
  }
  int code = 0;
  if (index_repeats) {
    // libseccomp takes an argument once in a rule. runc makes such a rule one rule per comparison,
    // of which any may match, and profiles rely on it.
    for (size_t i = 0; i < comparisons.size() && code == 0; ++i)
      code = seccomp_rule_add_array(filter, action, syscall_number, 1, &comparisons[i]);
  } else {
    code = seccomp_rule_add_array(filter, action, syscall_number,
                                  static_cast<unsigned>(comparisons.size()), comparisons.data());
  }
  return code == 0 ? Result<void>() : library_error("add rule", code);
}

Result<void> add_rules(scmp_filter_ctx filter, const oci::Seccomp& config,
                       uint32_t default_action) {
  for (const oci::SyscallRule& rule : config.syscalls) {
    const uint32_t action = TRY(action_of(rule.action, rule.errno_ret));
    // libseccomp refuses rules that say what the default says anyway.
    if (action == default_action) continue;
    for (const std::string& name : rule.names) {
      const int number = seccomp_syscall_resolve_name(name.c_str());
      if (number == __NR_SCMP_ERROR) continue;
      TRY(wrap(add_rule(filter, rule, action, number), fmt::format("system call `{}`", name)));
    }
  }
  return {};
}

// The largest number that the profile names for an architecture; -1: none.
int last_syscall(const oci::Seccomp& config, uint32_t architecture) {
  int last = -1;
  for (const oci::SyscallRule& rule : config.syscalls) {
    for (const std::string& name : rule.names)
      last = std::max(last, seccomp_syscall_resolve_name_arch(architecture, name.c_str()));
  }
  return last;
}

bool is_permissive(uint32_t action) {
  const uint32_t kind = action & SECCOMP_RET_ACTION_FULL;
  return kind == SECCOMP_RET_ALLOW || kind == SECCOMP_RET_LOG || kind == SECCOMP_RET_TRACE;
}

// A C library probes for system calls newer than the profile and falls back on ENOSYS, but takes
// the EPERM of a profile's default for the final word. So what lies beyond the last call that the
// profile knows does not exist, as with runc.
std::vector<sock_filter> missing_syscalls(const oci::Seccomp& config,
                                          const std::vector<uint32_t>& architectures) {
  constexpr uint32_t x32_bit = 0x40000000;  // __X32_SYSCALL_BIT of <asm/unistd.h>
  std::vector<sock_filter> out;
  for (const uint32_t architecture : architectures) {
    const int last = last_syscall(config, architecture);
    if (last < 0) continue;
    const bool x32 = architecture == SCMP_ARCH_X32;
    const uint32_t audit = x32 ? AUDIT_ARCH_X86_64 : architecture;
    const uint8_t to_end = audit == AUDIT_ARCH_X86_64 ? 4 : 3;
    out.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)));
    out.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, audit, 0, to_end));
    out.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
    if (audit == AUDIT_ARCH_X86_64) {
      const uint8_t when_x32 = x32 ? 0 : 2;
      const uint8_t otherwise = x32 ? 2 : 0;
      out.push_back(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, x32_bit, when_x32, otherwise));
    }
    out.push_back(BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, static_cast<uint32_t>(last), 0, 1));
    out.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS));
  }
  return out;
}

Result<void> append_exported(scmp_filter_ctx filter, std::vector<sock_filter>& out) {
  const UniqueFd file(::memfd_create("seccomp", MFD_CLOEXEC));
  if (!file) return sys_error("make a memory file");
  const int code = seccomp_export_bpf(filter, file.get());
  if (code != 0) return library_error("generate the filter", code);
  const off_t size = ::lseek(file.get(), 0, SEEK_END);
  if (size < 0 || ::lseek(file.get(), 0, SEEK_SET) != 0) return sys_error("seek in a memory file");
  const size_t count = static_cast<size_t>(size) / sizeof(sock_filter);
  const size_t before = out.size();
  out.resize(before + count);
  TRY(read_fully(file.get(), out.data() + before, count * sizeof(sock_filter)));
  if (out.size() > BPF_MAXINSNS) {
    return make_error(ErrorKind::kOutOfRange,
                      fmt::format("linux.seccomp: the filter has {} instructions, {} are possible",
                                  out.size(), BPF_MAXINSNS));
  }
  return {};
}

}  // namespace

Result<SeccompProgram> compile_seccomp(const oci::Seccomp& config) {
  SeccompProgram program;
  program.flags = TRY(flags_of(config.flags));
  const uint32_t default_action = TRY(action_of(config.default_action, config.default_errno_ret));
  const Filter filter(seccomp_init(default_action));
  if (!filter) return invalid_argument("linux.seccomp: start a filter");
  const auto architectures = TRY(add_architectures(filter.get(), config.architectures));
  TRY(add_rules(filter.get(), config, default_action));
  if (!is_permissive(default_action) && default_action != SCMP_ACT_ERRNO(ENOSYS))
    program.filter = missing_syscalls(config, architectures);
  TRY(append_exported(filter.get(), program.filter));
  return program;
}

Result<void> load_seccomp(const SeccompProgram& program) {
  const sock_fprog filter{.len = static_cast<unsigned short>(program.filter.size()),
                          .filter = const_cast<sock_filter*>(program.filter.data())};
  const long outcome = ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, program.flags, &filter);
  if (outcome == 0) return {};
  // SECCOMP_FILTER_FLAG_TSYNC: the thread that has a filter of its own.
  if (outcome > 0) return sys_error("load the seccomp filter into every thread", EBUSY);
  return sys_error("load the seccomp filter");
}

}  // namespace kiln::agent
