// SPDX-License-Identifier: Apache-2.0
#include "agent/container/device_filter.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <optional>

#include "base/bpf_instruction.h"
#include "base/format.h"
#include "base/unique_fd.h"
#include "oci/spec.h"

namespace kiln::agent {
namespace {

// A rule with every member resolved.
struct Match {
  bool allow = true;
  uint16_t type = 0;  // BPF_DEVCG_DEV_*; 0: any
  std::optional<uint32_t> major;
  std::optional<uint32_t> minor;
  uint16_t access = 0;  // BPF_DEVCG_ACC_*
};

constexpr uint16_t kAllAccess = BPF_DEVCG_ACC_MKNOD | BPF_DEVCG_ACC_READ | BPF_DEVCG_ACC_WRITE;

constexpr Match character(uint32_t major, std::optional<uint32_t> minor) {
  return {.type = BPF_DEVCG_DEV_CHAR, .major = major, .minor = minor, .access = kAllAccess};
}

const Match kDefaults[] = {
    {.type = BPF_DEVCG_DEV_CHAR, .access = BPF_DEVCG_ACC_MKNOD},
    {.type = BPF_DEVCG_DEV_BLOCK, .access = BPF_DEVCG_ACC_MKNOD},
    character(1, 3),               // null
    character(1, 5),               // zero
    character(1, 7),               // full
    character(1, 8),               // random
    character(1, 9),               // urandom
    character(5, 0),               // tty
    character(5, 2),               // ptmx
    character(136, std::nullopt),  // pts/*
};

Result<std::optional<uint32_t>> device_number(const std::optional<int64_t>& number,
                                              const char* member) {
  if (!number || *number == -1) return std::optional<uint32_t>();
  if (*number < 0 || *number > std::numeric_limits<uint32_t>::max()) {
    return invalid_argument(
        fmt::format("linux.resources.devices: {} {} is no device number", member, *number));
  }
  return std::optional<uint32_t>(static_cast<uint32_t>(*number));
}

Result<Match> match_of(const oci::DeviceRule& rule) {
  Match match{.allow = rule.allow};
  if (rule.type == "c" || rule.type == "u")
    match.type = BPF_DEVCG_DEV_CHAR;
  else if (rule.type == "b")
    match.type = BPF_DEVCG_DEV_BLOCK;
  else if (!rule.type.empty() && rule.type != "a")
    return invalid_argument(
        fmt::format("linux.resources.devices: type must be a, b or c, is `{}`", rule.type));
  match.major = TRY(device_number(rule.major, "major"));
  match.minor = TRY(device_number(rule.minor, "minor"));
  for (const char letter : rule.access) {
    if (letter == 'r')
      match.access |= BPF_DEVCG_ACC_READ;
    else if (letter == 'w')
      match.access |= BPF_DEVCG_ACC_WRITE;
    else if (letter == 'm')
      match.access |= BPF_DEVCG_ACC_MKNOD;
    else
      return invalid_argument(fmt::format(
          "linux.resources.devices: access must consist of r, w and m, is `{}`", rule.access));
  }
  // An absent member stands for all, as with type and numbers.
  if (rule.access.empty()) match.access = kAllAccess;
  return match;
}

// What the program keeps in registers.
constexpr uint8_t kContext = BPF_REG_1;
constexpr uint8_t kUndecided = BPF_REG_2;  // the asked-for access that no rule has allowed so far
constexpr uint8_t kType = BPF_REG_3;
constexpr uint8_t kMajor = BPF_REG_4;
constexpr uint8_t kMinor = BPF_REG_5;

constexpr bpf_insn load(uint8_t to, size_t offset) {
  return bpf_instruction(BPF_LDX | BPF_MEM | BPF_W, to, kContext, static_cast<int>(offset), 0);
}

constexpr bpf_insn alu(int operation, uint8_t to, int32_t value) {
  return bpf_instruction(BPF_ALU | BPF_K | operation, to, 0, 0, value);
}

// 32-bit comparison: a device number above 2^31 must not be sign-extended.
constexpr bpf_insn jump(int operation, uint8_t left, int32_t right, int offset) {
  return bpf_instruction(BPF_JMP32 | BPF_K | operation, left, 0, offset, right);
}

void append_return(std::vector<bpf_insn>& out, int32_t value) {
  out.push_back(bpf_instruction(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, value));
  out.push_back(bpf_instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0));
}

void append_prologue(std::vector<bpf_insn>& out) {
  // access_type holds the access in its upper half and the type in its lower one.
  out.push_back(load(kUndecided, offsetof(bpf_cgroup_dev_ctx, access_type)));
  out.push_back(bpf_instruction(BPF_ALU | BPF_X | BPF_MOV, kType, kUndecided, 0, 0));
  out.push_back(alu(BPF_RSH, kUndecided, 16));
  out.push_back(alu(BPF_AND, kType, 0xffff));
  out.push_back(load(kMajor, offsetof(bpf_cgroup_dev_ctx, major)));
  out.push_back(load(kMinor, offsetof(bpf_cgroup_dev_ctx, minor)));
}

void append_match(std::vector<bpf_insn>& out, const Match& match) {
  const size_t begin = out.size();
  if (match.type != 0) out.push_back(jump(BPF_JNE, kType, match.type, 0));
  if (match.major) out.push_back(jump(BPF_JNE, kMajor, static_cast<int32_t>(*match.major), 0));
  if (match.minor) out.push_back(jump(BPF_JNE, kMinor, static_cast<int32_t>(*match.minor), 0));
  const size_t end_of_conditions = out.size();
  if (match.allow) {
    out.push_back(alu(BPF_AND, kUndecided, ~int32_t{match.access}));
    out.push_back(jump(BPF_JNE, kUndecided, 0, 2));
    append_return(out, 1);
  } else {
    // Denied as soon as one asked-for access is.
    out.push_back(jump(BPF_JSET, kUndecided, match.access, 1));
    out.push_back(bpf_instruction(BPF_JMP | BPF_JA, 0, 0, 2, 0));
    append_return(out, 0);
  }
  for (size_t i = begin; i < end_of_conditions; ++i)
    out[i].off = static_cast<int16_t>(out.size() - i - 1);
}

}  // namespace

Result<std::vector<bpf_insn>> device_filter(const std::vector<oci::DeviceRule>& rules) {
  std::vector<Match> matches;
  matches.reserve(rules.size() + std::size(kDefaults));
  for (const oci::DeviceRule& rule : rules) matches.push_back(TRY(match_of(rule)));
  matches.insert(matches.end(), std::begin(kDefaults), std::end(kDefaults));

  std::vector<bpf_insn> program;
  append_prologue(program);
  // Backwards, so that the last rule is the first to decide.
  for (auto match = matches.rbegin(); match != matches.rend(); ++match)
    append_match(program, *match);
  append_return(program, 0);
  return program;
}

Result<void> attach_device_filter(int cgroup_fd, const std::vector<bpf_insn>& program) {
  // The kernel has helpers that only programs under the GPL may call. This one calls none.
  static constexpr char license[] = "Apache-2.0";
  bpf_attr load_attributes{};
  load_attributes.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
  load_attributes.insns = reinterpret_cast<uint64_t>(program.data());
  load_attributes.insn_cnt = static_cast<uint32_t>(program.size());
  load_attributes.license = reinterpret_cast<uint64_t>(license);
  const UniqueFd loaded(static_cast<int>(
      ::syscall(SYS_bpf, BPF_PROG_LOAD, &load_attributes, sizeof load_attributes)));
  if (!loaded) return sys_error("load the device filter (needs CONFIG_CGROUP_BPF)");

  bpf_attr attach_attributes{};
  attach_attributes.target_fd = static_cast<uint32_t>(cgroup_fd);
  attach_attributes.attach_bpf_fd = static_cast<uint32_t>(loaded.get());
  attach_attributes.attach_type = BPF_CGROUP_DEVICE;
  attach_attributes.attach_flags = BPF_F_ALLOW_MULTI;
  if (::syscall(SYS_bpf, BPF_PROG_ATTACH, &attach_attributes, sizeof attach_attributes) != 0)
    return sys_error("attach the device filter to the cgroup");
  return {};
}

}  // namespace kiln::agent
