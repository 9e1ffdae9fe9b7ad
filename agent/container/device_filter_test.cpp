// SPDX-License-Identifier: Apache-2.0
#include "agent/container/device_filter.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "base/unique_fd.h"
#include "oci/spec.h"

namespace kiln::agent {
namespace {

constexpr uint32_t kRead = BPF_DEVCG_ACC_READ;
constexpr uint32_t kWrite = BPF_DEVCG_ACC_WRITE;
constexpr uint32_t kMknod = BPF_DEVCG_ACC_MKNOD;

struct Request {
  uint32_t type = BPF_DEVCG_DEV_CHAR;
  uint32_t major = 0;
  uint32_t minor = 0;
  uint32_t access = kRead;
};

// As much of the kernel's BPF machine as device filters need; whatever else is in a program fails.
// 1: allowed, 0: denied, negative: not a program.
class Machine {
 public:
  explicit Machine(const std::vector<bpf_insn>& program) : program_(program) {}

  int run(const Request& request) {
    const bpf_cgroup_dev_ctx context{.access_type = request.access << 16 | request.type,
                                     .major = request.major,
                                     .minor = request.minor};
    for (size_t at = 0; at < program_.size(); ++at) {
      const bpf_insn& in = program_[at];
      const uint64_t value =
          BPF_SRC(in.code) == BPF_X ? registers_.at(in.src_reg) : static_cast<uint32_t>(in.imm);
      switch (BPF_CLASS(in.code)) {
        case BPF_LDX: {
          uint32_t loaded = 0;
          std::memcpy(&loaded, reinterpret_cast<const char*>(&context) + in.off, sizeof loaded);
          registers_.at(in.dst_reg) = loaded;
          break;
        }
        case BPF_ALU:
        case BPF_ALU64:
          if (!compute(in, static_cast<uint32_t>(value))) return -1;
          break;
        case BPF_JMP:
          if (BPF_OP(in.code) == BPF_EXIT) return static_cast<int>(registers_[0]);
          if (BPF_OP(in.code) != BPF_JA) return -2;
          at += static_cast<size_t>(in.off);
          break;
        case BPF_JMP32:
          if (taken(in, static_cast<uint32_t>(value))) at += static_cast<size_t>(in.off);
          break;
        default:
          return -3;
      }
    }
    return -4;
  }

 private:
  bool compute(const bpf_insn& in, uint32_t value) {
    auto left = static_cast<uint32_t>(registers_.at(in.dst_reg));
    switch (BPF_OP(in.code)) {
      case BPF_MOV:
        left = value;
        break;
      case BPF_AND:
        left &= value;
        break;
      case BPF_RSH:
        left >>= value;
        break;
      default:
        return false;
    }
    registers_.at(in.dst_reg) = left;
    return true;
  }

  bool taken(const bpf_insn& in, uint32_t value) const {
    const auto left = static_cast<uint32_t>(registers_.at(in.dst_reg));
    return BPF_OP(in.code) == BPF_JNE ? left != value : (left & value) != 0;
  }

  const std::vector<bpf_insn>& program_;
  std::array<uint64_t, 11> registers_{};
};

int decision(const std::vector<oci::DeviceRule>& rules, const Request& request) {
  const auto program = device_filter(rules);
  return program ? Machine(*program).run(request) : -100;
}

const Request kFuse{.major = 10, .minor = 229, .access = kRead | kWrite};
const oci::DeviceRule kDenyAll{.allow = false, .access = "rwm"};

oci::DeviceRule rule(bool allow, const char* type, int64_t major, int64_t minor,
                     const char* access) {
  return {.allow = allow, .type = type, .major = major, .minor = minor, .access = access};
}

TEST(DeviceFilter, DeniesWithoutRules) { EXPECT_EQ(decision({}, kFuse), 0); }

TEST(DeviceFilter, AllowsDefaultDevicesWhateverTheRulesSay) {
  const std::vector<oci::DeviceRule> rules = {kDenyAll, rule(false, "c", 1, 3, "rwm")};
  for (const auto& [major, minor] : std::initializer_list<std::pair<uint32_t, uint32_t>>{
           {1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 2}, {136, 0}, {136, 77}}) {
    EXPECT_EQ(decision(rules, {.major = major, .minor = minor, .access = kRead | kWrite}), 1)
        << major << ":" << minor;
  }
}

TEST(DeviceFilter, DeniesTheMachinesConsole) {
  EXPECT_EQ(decision({}, {.major = 5, .minor = 1, .access = kWrite}), 0);
}

TEST(DeviceFilter, LetsNodesOfAnyKindBeMade) {
  EXPECT_EQ(decision({kDenyAll}, {.major = 8, .minor = 0, .access = kMknod}), 1);
  EXPECT_EQ(decision({kDenyAll}, {.type = BPF_DEVCG_DEV_BLOCK, .major = 8, .access = kMknod}), 1);
}

TEST(DeviceFilter, MakingANodeDoesNotOpenIt) {
  EXPECT_EQ(decision({kDenyAll}, {.major = 8, .access = kMknod | kRead}), 0);
}

TEST(DeviceFilter, LastMatchWins) {
  EXPECT_EQ(decision({kDenyAll, rule(true, "c", 10, 229, "rwm")}, kFuse), 1);
  EXPECT_EQ(decision({rule(true, "c", 10, 229, "rwm"), kDenyAll}, kFuse), 0);
}

TEST(DeviceFilter, AllowsOnlyTheAccessNamed) {
  const std::vector<oci::DeviceRule> rules = {kDenyAll, rule(true, "c", 10, 229, "r")};
  EXPECT_EQ(decision(rules, {.major = 10, .minor = 229, .access = kRead}), 1);
  EXPECT_EQ(decision(rules, {.major = 10, .minor = 229, .access = kWrite}), 0);
  EXPECT_EQ(decision(rules, kFuse), 0);
}

TEST(DeviceFilter, AddsUpAccessFromSeveralRules) {
  EXPECT_EQ(
      decision({kDenyAll, rule(true, "c", 10, 229, "r"), rule(true, "c", 10, 229, "w")}, kFuse), 1);
}

TEST(DeviceFilter, TakesPartOfAnAccessBack) {
  const std::vector<oci::DeviceRule> rules = {rule(true, "c", 10, 229, "rwm"),
                                              rule(false, "c", 10, 229, "w")};
  EXPECT_EQ(decision(rules, {.major = 10, .minor = 229, .access = kRead}), 1);
  EXPECT_EQ(decision(rules, kFuse), 0);
}

TEST(DeviceFilter, TellsTypesApart) {
  const std::vector<oci::DeviceRule> rules = {rule(true, "b", 10, 229, "rwm")};
  EXPECT_EQ(decision(rules, kFuse), 0);
  EXPECT_EQ(decision(rules, {BPF_DEVCG_DEV_BLOCK, 10, 229, kRead}), 1);
}

TEST(DeviceFilter, MinusOneMatchesAnyNumber) {
  const std::vector<oci::DeviceRule> rules = {rule(true, "c", 10, -1, "rw")};
  EXPECT_EQ(decision(rules, kFuse), 1);
  EXPECT_EQ(decision(rules, {.major = 11, .minor = 229}), 0);
}

TEST(DeviceFilter, RuleWithoutMembersMatchesEverything) {
  EXPECT_EQ(decision({{.allow = true}}, {BPF_DEVCG_DEV_BLOCK, 259, 1, kRead | kWrite}), 1);
}

TEST(DeviceFilter, ComparesNumbersUnsigned) {
  const std::vector<oci::DeviceRule> rules = {rule(true, "c", 0xfffffffe, 0, "r")};
  EXPECT_EQ(decision(rules, {.major = 0xfffffffe, .minor = 0}), 1);
}

TEST(DeviceFilter, RefusesNumbersThatAreNone) {
  EXPECT_FALSE(device_filter({rule(true, "c", -2, 0, "r")}));
  EXPECT_FALSE(device_filter({rule(true, "c", 0, int64_t{1} << 32, "r")}));
}

TEST(DeviceFilter, RefusesUnknownTypesAndAccesses) {
  EXPECT_EQ(device_filter({rule(true, "z", 0, 0, "r")}).error().message,
            "linux.resources.devices: type must be a, b or c, is `z`");
  EXPECT_EQ(device_filter({rule(true, "c", 0, 0, "rx")}).error().message,
            "linux.resources.devices: access must consist of r, w and m, is `rx`");
}

// The kernel's own verifier, which knows more than Machine does.
TEST(DeviceFilter, PassesTheKernelsVerifier) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root: loads a BPF program";
  std::vector<oci::DeviceRule> rules = {kDenyAll, {.allow = true, .access = "r"}};
  for (int i = 0; i < 300; ++i) rules.push_back(rule(i % 2 == 0, "c", i, i, "rwm"));
  const auto program = device_filter(rules);
  ASSERT_TRUE(program);
  bpf_attr attributes{};
  attributes.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
  attributes.insns = reinterpret_cast<uint64_t>(program->data());
  attributes.insn_cnt = static_cast<uint32_t>(program->size());
  attributes.license = reinterpret_cast<uint64_t>("x");
  const UniqueFd loaded(
      static_cast<int>(::syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof attributes)));
  const int failure = errno;
  if (!loaded && failure == EPERM) GTEST_SKIP() << "this host lets root load no BPF programs";
  EXPECT_TRUE(loaded.valid()) << std::strerror(failure);
}

}  // namespace
}  // namespace kiln::agent
