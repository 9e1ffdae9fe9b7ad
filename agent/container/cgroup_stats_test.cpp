// SPDX-License-Identifier: Apache-2.0
#include "agent/container/cgroup_stats.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <fstream>

#include "agent/protocol/messages.h"
#include "base/file.h"
#include "base/temporary_directory.h"

namespace kiln::agent {
namespace {

class CgroupStatsTest : public testing::Test {
 protected:
  void put(const std::string& file, const std::string& text) {
    std::ofstream(directory_.path() + "/" + file) << text;
  }
  protocol::StatsReply read() {
    const UniqueFd fd = open_file(directory_.path(), O_RDONLY | O_DIRECTORY).value();
    return read_cgroup_stats(fd.get()).value();
  }
  TemporaryDirectory directory_ = TemporaryDirectory::create("/tmp", "kiln-stats-").value();
};

TEST_F(CgroupStatsTest, ReadsEveryController) {
  put("cpu.stat",
      "usage_usec 5\nuser_usec 2\nsystem_usec 3\nnr_periods 7\nnr_throttled 6\n"
      "throttled_usec 8\n");
  put("memory.current", "4096\n");
  put("memory.peak", "8192\n");
  put("memory.max", "65536\n");
  put("memory.swap.current", "1\n");
  put("memory.swap.max", "max\n");
  put("memory.events", "low 0\nhigh 0\nmax 4\noom 1\n");
  put("memory.stat", "anon 10\nfile 11\n");
  put("pids.current", "3\n");
  put("pids.max", "max\n");
  put("io.stat", "254:1 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n");
  put("hugetlb.2MB.current", "2097152\n");
  put("hugetlb.2MB.rsvd.current", "1\n");
  put("hugetlb.2MB.events", "max 9\n");
  const protocol::StatsReply stats = read();
  EXPECT_EQ(stats.cpu_us, 5U);
  EXPECT_EQ(stats.cpu_user_us, 2U);
  EXPECT_EQ(stats.cpu_system_us, 3U);
  EXPECT_EQ(stats.periods, 7U);
  EXPECT_EQ(stats.throttled_periods, 6U);
  EXPECT_EQ(stats.throttled_us, 8U);
  EXPECT_EQ(stats.memory_bytes, 4096U);
  EXPECT_EQ(stats.memory_peak_bytes, 8192U);
  EXPECT_EQ(stats.memory_limit_bytes, 65536U);
  EXPECT_EQ(stats.memory_limit_hits, 4U);
  EXPECT_EQ(stats.swap_bytes, 1U);
  EXPECT_EQ(stats.swap_limit_bytes, protocol::kUnlimited);
  EXPECT_EQ(stats.memory_stat, (std::map<std::string, uint64_t>{{"anon", 10}, {"file", 11}}));
  EXPECT_EQ(stats.pids, 3U);
  EXPECT_EQ(stats.pids_limit, protocol::kUnlimited);
  ASSERT_EQ(stats.block.size(), 1U);
  EXPECT_EQ(stats.block[0].major, 254U);
  EXPECT_EQ(stats.block[0].minor, 1U);
  EXPECT_EQ(stats.block[0].written_bytes, 2U);
  EXPECT_EQ(stats.block[0].writes, 4U);
  ASSERT_EQ(stats.hugepages.size(), 1U);
  EXPECT_EQ(stats.hugepages.at("2MB").usage_bytes, 2097152U);
  EXPECT_EQ(stats.hugepages.at("2MB").limit_hits, 9U);
}

TEST_F(CgroupStatsTest, WhatTheKernelDoesNotCountStaysAtItsDefault) {
  put("io.stat", "254:1 \nnonsense\n");
  put("memory.current", "x\n");
  const protocol::StatsReply stats = read();
  EXPECT_EQ(stats.memory_bytes, 0U);
  EXPECT_EQ(stats.memory_limit_bytes, protocol::kUnlimited);
  EXPECT_TRUE(stats.memory_stat.empty());
  EXPECT_EQ(stats.block.size(), 1U);
}

}  // namespace
}  // namespace kiln::agent
