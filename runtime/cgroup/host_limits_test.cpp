// SPDX-License-Identifier: Apache-2.0
#include "runtime/cgroup/host_limits.h"

#include <gtest/gtest.h>

namespace kiln::runtime {
namespace {

using Lines = std::vector<std::string>;
constexpr int64_t kMib = 1 << 20;

// A container of 64 MiB in a VM of 160, whose processes may take 40 more.
constexpr HostMachine kMachine{160, 40};

Lines lines_of(const std::vector<HostLimit>& limits) {
  Lines out;
  for (const HostLimit& limit : limits)
    out.push_back(limit.controller + "/" + limit.file + "=" + limit.value);
  return out;
}

Lines v1(const oci::Resources& resources) {
  return lines_of(host_limits(resources, kMachine, false).value());
}
Lines v2(const oci::Resources& resources) {
  return lines_of(host_limits(resources, kMachine, true).value());
}

oci::Resources memory(int64_t limit, int64_t swap = 0, int64_t reservation = 0) {
  oci::Resources resources;
  resources.memory = {.limit = limit, .reservation = reservation, .swap = swap};
  return resources;
}

TEST(HostLimits, AreNoneWithoutResources) {
  EXPECT_EQ(v1({}), Lines{});
  EXPECT_EQ(v2(memory(0)), Lines{});
}

TEST(HostLimits, MemoryIsTheMachinesAndWhatItsProcessesNeed) {
  EXPECT_EQ(v1(memory(64 * kMib)), Lines{"memory/memory.limit_in_bytes=209715200"});
  EXPECT_EQ(v2(memory(64 * kMib)), Lines{"memory/memory.max=209715200"});
}

TEST(HostLimits, UnlimitedMemoryIsUnlimitedWithItsSwap) {
  EXPECT_EQ(v1(memory(-1)),
            (Lines{"memory/memory.limit_in_bytes=-1", "memory/memory.memsw.limit_in_bytes=-1"}));
  EXPECT_EQ(v2(memory(-1)), (Lines{"memory/memory.max=max", "memory/memory.swap.max=max"}));
}

TEST(HostLimits, SwapIsWhatIsAllowedBeyondMemory) {
  EXPECT_EQ(v1(memory(64 * kMib, 96 * kMib))[1], "memory/memory.memsw.limit_in_bytes=243269632");
  EXPECT_EQ(v2(memory(64 * kMib, 96 * kMib))[1], "memory/memory.swap.max=33554432");
  EXPECT_EQ(v2(memory(64 * kMib, 64 * kMib))[1], "memory/memory.swap.max=0");
  EXPECT_EQ(v2(memory(64 * kMib, -1))[1], "memory/memory.swap.max=max");
}

TEST(HostLimits, SwapThatCannotBeLimitedMattersOnlyWhereSomeIsAllowed) {
  EXPECT_TRUE(host_limits(memory(kMib, kMib), kMachine, false).value()[1].may_be_absent);
  EXPECT_FALSE(host_limits(memory(kMib, 2 * kMib), kMachine, false).value()[1].may_be_absent);
}

TEST(HostLimits, AReservationGrowsByWhatTheLimitGrowsBy) {
  EXPECT_EQ(v1(memory(64 * kMib, 0, 32 * kMib))[1], "memory/memory.soft_limit_in_bytes=176160768");
  EXPECT_EQ(v2(memory(0, 0, 32 * kMib)), Lines{"memory/memory.low=75497472"});
}

TEST(HostLimits, CpuIsAsGiven) {
  oci::Resources resources;
  resources.cpu = {
      .shares = 1024, .quota = 50000, .burst = 1000, .period = 100000, .cpus = "0-1", .mems = "0"};
  EXPECT_EQ(v1(resources), (Lines{"cpu/cpu.shares=1024", "cpu/cpu.cfs_period_us=100000",
                                  "cpu/cpu.cfs_quota_us=50000", "cpu/cpu.cfs_burst_us=1000",
                                  "cpuset/cpuset.cpus=0-1", "cpuset/cpuset.mems=0"}));
  EXPECT_EQ(v2(resources),
            (Lines{"cpu/cpu.weight=39", "cpu/cpu.max=50000 100000", "cpu/cpu.max.burst=1000",
                   "cpuset/cpuset.cpus=0-1", "cpuset/cpuset.mems=0"}));
}

TEST(HostLimits, AQuotaOfMinusOneIsNone) {
  oci::Resources resources;
  resources.cpu = {.quota = -1};
  EXPECT_EQ(v1(resources), Lines{"cpu/cpu.cfs_quota_us=-1"});
  EXPECT_EQ(v2(resources), Lines{"cpu/cpu.max=max 100000"});
}

TEST(HostLimits, ThrottlesCanBeLiftedForTheBoot) {
  oci::Resources resources;
  resources.cpu = {.shares = 2, .quota = 50000, .burst = 7, .period = 20000};
  EXPECT_EQ(lines_of(without_throttles(host_limits(resources, kMachine, false).value())),
            (Lines{"cpu/cpu.shares=2", "cpu/cpu.cfs_period_us=20000", "cpu/cpu.cfs_quota_us=-1",
                   "cpu/cpu.cfs_burst_us=0"}));
  EXPECT_EQ(lines_of(without_throttles(host_limits(resources, kMachine, true).value())),
            (Lines{"cpu/cpu.weight=1", "cpu/cpu.max=max 20000", "cpu/cpu.max.burst=0"}));
}

TEST(HostLimits, BlockDevicesAreTheHosts) {
  oci::Resources resources;
  auto& block = resources.block_io.emplace();
  block.weight = 500;
  block.throttle_read_bps_device = {{8, 0, 1000}};
  block.throttle_write_iops_device = {{8, 16, 0}};
  EXPECT_EQ(v1(resources),
            (Lines{"blkio/blkio.bfq.weight=500", "blkio/blkio.throttle.read_bps_device=8:0 1000",
                   "blkio/blkio.throttle.write_iops_device=8:16 0"}));
  EXPECT_EQ(v2(resources),
            (Lines{"io/io.bfq.weight=500", "io/io.max=8:0 rbps=1000", "io/io.max=8:16 wiops=max"}));
  const auto weight = host_limits(resources, kMachine, true).value().front();
  EXPECT_EQ(weight.fallback_file + "=" + weight.fallback_value, "io.weight=default 4950");
}

TEST(HostLimits, LeafWeightsAreRefused) {
  oci::Resources resources;
  oci::WeightDevice device;
  device.leaf_weight = 10;
  resources.block_io.emplace().weight_device = {device};
  EXPECT_FALSE(host_limits(resources, kMachine, true));
}

TEST(HostLimits, ProcessesHugePagesAndUnifiedFilesAreTheGuests) {
  oci::Resources resources;
  resources.pids.emplace().limit = 5;
  resources.hugepage_limits = {{"2MB", 1}};
  resources.unified = {{"memory.max", "1"}};
  EXPECT_EQ(v2(resources), Lines{});
}

TEST(MachineOverhead, GrowsWithTheMachineAndIsLargestWhereQemuTranslates) {
  EXPECT_EQ(machine_overhead_mib(MachineKind::kKvm, 1, 512), 200U);
  EXPECT_EQ(machine_overhead_mib(MachineKind::kQemuKvm, 2, 0), 272U);
  EXPECT_EQ(machine_overhead_mib(MachineKind::kQemuTcg, 1, 1024), 648U);
}

}  // namespace
}  // namespace kiln::runtime
