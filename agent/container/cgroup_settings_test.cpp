// SPDX-License-Identifier: Apache-2.0
#include "agent/container/cgroup_settings.h"

#include <gtest/gtest.h>

#include "oci/spec.h"

namespace kiln::agent {
namespace {

// `file=value` of each setting, in order.
std::vector<std::string> written(const oci::Resources& resources) {
  const auto settings = cgroup_settings(resources);
  std::vector<std::string> out;
  if (!settings) return {settings.error().message};
  for (const CgroupSetting& setting : settings->settings)
    out.push_back(setting.file + "=" + setting.value);
  return out;
}

std::string failure(const oci::Resources& resources) {
  const auto settings = cgroup_settings(resources);
  return settings ? "" : settings.error().message;
}

using Lines = std::vector<std::string>;

TEST(WeightOfShares, MapsEndsOfTheRangeOntoEnds) {
  EXPECT_EQ(weight_of_shares(2), 1U);
  EXPECT_EQ(weight_of_shares(262144), 10000U);
}

TEST(WeightOfShares, IsLinearBetween) {
  EXPECT_EQ(weight_of_shares(1024), 39U);
  EXPECT_EQ(weight_of_shares(2048), 79U);
}

TEST(WeightOfShares, ClampsWhatV1Clamped) {
  EXPECT_EQ(weight_of_shares(1), 1U);
  EXPECT_EQ(weight_of_shares(1'000'000), 10000U);
}

TEST(IoWeight, MapsEndsOfTheRangeOntoEnds) {
  EXPECT_EQ(io_weight_of_block_weight(10), 1U);
  EXPECT_EQ(io_weight_of_block_weight(1000), 10000U);
  EXPECT_EQ(io_weight_of_block_weight(500), 4950U);
}

TEST(SwapMax, IsWhatV1CountsBeyondMemory) { EXPECT_EQ(swap_max(100, 250).value(), "150"); }
TEST(SwapMax, EqualToLimitMeansNoSwap) { EXPECT_EQ(swap_max(100, 100).value(), "0"); }
TEST(SwapMax, UnlimitedStaysUnlimited) { EXPECT_EQ(swap_max(100, -1).value(), "max"); }
TEST(SwapMax, FollowsUnlimitedMemory) { EXPECT_EQ(swap_max(-1, std::nullopt).value(), "max"); }
TEST(SwapMax, IsLeftAloneWithoutSwap) { EXPECT_EQ(swap_max(100, std::nullopt).value(), ""); }

TEST(SwapMax, BelowTheLimitIsRefused) {
  EXPECT_EQ(swap_max(100, 99).error().message,
            "counts memory and swap together, so 99 must not be below the memory limit 100");
}

TEST(SwapMax, WithoutALimitIsRefused) {
  EXPECT_EQ(swap_max(std::nullopt, 99).error().message, "needs a memory limit");
  EXPECT_FALSE(swap_max(-1, 99));
}

TEST(CgroupSettings, OfNothingAreNone) { EXPECT_EQ(written({}), Lines{}); }

TEST(CgroupSettings, OfMemoryComeWithSwapFirst) {
  oci::Resources resources;
  resources.memory = oci::MemoryResources{.limit = 4096, .reservation = 1024, .swap = 8192};
  EXPECT_EQ(written(resources),
            (Lines{"memory.swap.max=4096", "memory.max=4096", "memory.low=1024"}));
}

TEST(CgroupSettings, OfUnlimitedMemoryAreMax) {
  oci::Resources resources;
  resources.memory = oci::MemoryResources{.limit = -1};
  EXPECT_EQ(written(resources), (Lines{"memory.swap.max=max", "memory.max=max"}));
}

TEST(CgroupSettings, RefuseToDisableTheOomKiller) {
  oci::Resources resources;
  resources.memory = oci::MemoryResources{.disable_oom_killer = true};
  EXPECT_EQ(
      failure(resources),
      "linux.resources.memory.disableOOMKiller: cgroup v2, which the guest has, cannot do it");
}

TEST(CgroupSettings, WarnOfEveryMemoryMemberLeftOut) {
  oci::Resources resources;
  resources.memory =
      oci::MemoryResources{.kernel = 1, .kernel_tcp = 1, .swappiness = 60, .use_hierarchy = false};
  const auto settings = cgroup_settings(resources);
  ASSERT_TRUE(settings);
  EXPECT_EQ(settings->warnings.size(), 3U);
  EXPECT_TRUE(settings->settings.empty());
}

TEST(CgroupSettings, CarryTheLimitToCheckBeforeUpdate) {
  oci::Resources resources;
  resources.memory = oci::MemoryResources{.limit = 4096, .check_before_update = true};
  EXPECT_EQ(cgroup_settings(resources)->refuse_limit_below_usage, 4096U);
}

TEST(CgroupSettings, OfCpuComeInTheOrderThatTheKernelTakes) {
  oci::Resources resources;
  resources.cpu = oci::CpuResources{.shares = 1024,
                                    .quota = 50000,
                                    .burst = 1000,
                                    .period = 200000,
                                    .cpus = "0-1",
                                    .mems = "0",
                                    .idle = 1};
  EXPECT_EQ(written(resources), (Lines{"cpu.weight=39", "cpu.idle=1", "cpu.max=50000 200000",
                                       "cpu.max.burst=1000", "cpuset.cpus=0-1", "cpuset.mems=0"}));
}

TEST(CgroupSettings, OfAQuotaAloneUseTheDefaultPeriod) {
  oci::Resources resources;
  resources.cpu = oci::CpuResources{.quota = 50000};
  EXPECT_EQ(written(resources), Lines{"cpu.max=50000 100000"});
}

TEST(CgroupSettings, OfAPeriodWithoutQuotaAreUnlimited) {
  oci::Resources resources;
  resources.cpu = oci::CpuResources{.quota = -1, .period = 50000};
  EXPECT_EQ(written(resources), Lines{"cpu.max=max 50000"});
}

TEST(CgroupSettings, RefuseRealtime) {
  oci::Resources resources;
  resources.cpu = oci::CpuResources{.realtime_runtime = 950000};
  EXPECT_NE(failure(resources).find("cpu.realtimeRuntime"), std::string::npos);
  resources.cpu = oci::CpuResources{.realtime_period = 1000000};
  EXPECT_NE(failure(resources).find("cpu.realtimePeriod"), std::string::npos);
}

TEST(CgroupSettings, OfPidsHaveMaxForNoLimit) {
  oci::Resources resources;
  resources.pids = oci::PidsResources{.limit = 10};
  EXPECT_EQ(written(resources), Lines{"pids.max=10"});
  resources.pids->limit = -1;
  EXPECT_EQ(written(resources), Lines{"pids.max=max"});
}

TEST(CgroupSettings, OfBlockWeightPreferBfqAndFallBackOnIoWeight) {
  oci::Resources resources;
  resources.block_io = oci::BlockIoResources{.weight = 500};
  const auto settings = cgroup_settings(resources);
  ASSERT_TRUE(settings);
  EXPECT_EQ(settings->settings[0].file, "io.bfq.weight");
  EXPECT_EQ(settings->settings[0].value, "500");
  EXPECT_EQ(settings->settings[0].fallback_file, "io.weight");
  EXPECT_EQ(settings->settings[0].fallback_value, "4950");
}

TEST(CgroupSettings, OfBlockDevicesAreOneLineEach) {
  oci::Resources resources;
  resources.block_io =
      oci::BlockIoResources{.weight_device = {{.major = 8, .minor = 16, .weight = 10}},
                            .throttle_read_bps_device = {{.major = 8, .minor = 0, .rate = 1000}},
                            .throttle_write_bps_device = {{.major = 8, .minor = 0, .rate = 0}},
                            .throttle_read_iops_device = {{.major = 8, .minor = 0, .rate = 5}},
                            .throttle_write_iops_device = {{.major = 8, .minor = 0, .rate = 6}}};
  EXPECT_EQ(written(resources),
            (Lines{"io.bfq.weight=8:16 10", "io.max=8:0 rbps=1000", "io.max=8:0 wbps=max",
                   "io.max=8:0 riops=5", "io.max=8:0 wiops=6"}));
}

TEST(CgroupSettings, RefuseLeafWeights) {
  oci::Resources resources;
  resources.block_io = oci::BlockIoResources{.leaf_weight = 10};
  EXPECT_NE(failure(resources).find("blockIO.leafWeight"), std::string::npos);
  resources.block_io =
      oci::BlockIoResources{.weight_device = {{.major = 8, .minor = 0, .leaf_weight = 10}}};
  EXPECT_NE(failure(resources).find("blockIO.weightDevice.leafWeight"), std::string::npos);
}

TEST(CgroupSettings, RefuseABlockWeightOutOfRange) {
  oci::Resources resources;
  resources.block_io = oci::BlockIoResources{.weight = 9};
  EXPECT_EQ(failure(resources), "linux.resources.blockIO.weight: must be 10 to 1000, is 9");
  resources.block_io->weight = 1001;
  EXPECT_NE(failure(resources), "");
}

TEST(CgroupSettings, OfHugepagesLimitReservationsToo) {
  oci::Resources resources;
  resources.hugepage_limits = {{.page_size = "2MB", .limit = 4194304}};
  EXPECT_EQ(written(resources), (Lines{"hugetlb.2MB.max=4194304", "hugetlb.2MB.rsvd.max=4194304"}));
}

TEST(CgroupSettings, RefuseAPageSizeThatIsAPath) {
  oci::Resources resources;
  resources.hugepage_limits = {{.page_size = "../x", .limit = 1}};
  EXPECT_EQ(failure(resources),
            "linux.resources.hugepageLimits: `../x` is no page size such as 2MB");
}

TEST(CgroupSettings, OfRdmaNameTheDeviceFirst) {
  oci::Resources resources;
  resources.rdma["mlx5_1"] = {.hca_handles = 3, .hca_objects = 10000};
  EXPECT_EQ(written(resources), Lines{"rdma.max=mlx5_1 hca_handle=3 hca_object=10000"});
}

TEST(CgroupSettings, RefuseNetworkClasses) {
  oci::Resources resources;
  resources.network = oci::NetworkResources{.class_id = 1};
  EXPECT_NE(failure(resources).find("linux.resources.network"), std::string::npos);
  resources.network = oci::NetworkResources{.priorities = {{.name = "eth0", .priority = 1}}};
  EXPECT_NE(failure(resources).find("linux.resources.network"), std::string::npos);
}

TEST(CgroupSettings, OfUnifiedComeLastAndALineEach) {
  oci::Resources resources;
  resources.unified = {{"io.max", "8:0 rbps=1\n8:16 rbps=2\n"}, {"cgroup.max.depth", "3"}};
  resources.pids = oci::PidsResources{.limit = 10};
  EXPECT_EQ(written(resources), (Lines{"pids.max=10", "cgroup.max.depth=3", "io.max=8:0 rbps=1",
                                       "io.max=8:16 rbps=2"}));
  EXPECT_EQ(cgroup_settings(resources)->settings[1].controller, "");
  EXPECT_EQ(cgroup_settings(resources)->settings[2].controller, "io");
}

TEST(CgroupSettings, RefuseUnifiedKeysThatArePathsOrNone) {
  for (const char* key : {"../memory.max", "a/b.c", "memory", ".max", ""}) {
    oci::Resources resources;
    resources.unified = {{key, "1"}};
    EXPECT_NE(failure(resources).find("is no file name"), std::string::npos) << key;
  }
}

TEST(CgroupSettings, RefuseUnifiedKeysThatSteerTheCgroup) {
  for (const char* key : {"cgroup.procs", "cgroup.kill", "cgroup.freeze"}) {
    oci::Resources resources;
    resources.unified = {{key, "1"}};
    EXPECT_NE(failure(resources).find("is not to be set"), std::string::npos) << key;
  }
}

}  // namespace
}  // namespace kiln::agent
