// SPDX-License-Identifier: Apache-2.0
#include "shim/stats.h"

#include <gtest/gtest.h>

#include "cgroup1.pb.h"
#include "cgroup2.pb.h"

namespace kiln::shim {
namespace {

protocol::StatsReply sample() {
  protocol::StatsReply stats;
  stats.cpu_us = 5000;
  stats.cpu_user_us = 3000;
  stats.cpu_system_us = 2000;
  stats.periods = 10;
  stats.throttled_periods = 4;
  stats.throttled_us = 77;
  stats.memory_bytes = 1 << 20;
  stats.memory_peak_bytes = 2 << 20;
  stats.memory_limit_bytes = 64 << 20;
  stats.memory_limit_hits = 3;
  stats.swap_bytes = 4096;
  stats.memory_stat = {{"anon", 111}, {"file", 222}, {"inactive_file", 33}, {"pgfault", 9}};
  stats.pids = 5;
  stats.pids_limit = 100;
  stats.block.resize(1);
  stats.block[0].major = 254;
  stats.block[0].minor = 16;
  stats.block[0].read_bytes = 1000;
  stats.block[0].written_bytes = 2000;
  stats.block[0].reads = 1;
  stats.block[0].writes = 2;
  stats.hugepages["2MB"].usage_bytes = 2 << 20;
  return stats;
}

template <typename Metrics>
Metrics decode(const protocol::StatsReply& stats, bool unified, const char* type) {
  const api::Any any = encode_stats(stats, unified);
  EXPECT_EQ(any.type_url(), type);
  Metrics out;
  EXPECT_TRUE(out.ParseFromString(any.value()));
  return out;
}

api::cgroup1::Metrics v1(const protocol::StatsReply& stats) {
  return decode<api::cgroup1::Metrics>(stats, false, "io.containerd.cgroups.v1.Metrics");
}

api::cgroup2::Metrics v2(const protocol::StatsReply& stats) {
  return decode<api::cgroup2::Metrics>(stats, true, "io.containerd.cgroups.v2.Metrics");
}

TEST(Stats, OfVersion2AreInMicroseconds) {
  const auto out = v2(sample());
  EXPECT_EQ(out.cpu().usage_usec(), 5000U);
  EXPECT_EQ(out.cpu().throttled_usec(), 77U);
  EXPECT_EQ(out.memory().anon(), 111U);
  EXPECT_EQ(out.memory().inactive_file(), 33U);
  EXPECT_EQ(out.memory().usage(), 1U << 20);
  EXPECT_EQ(out.memory().usage_limit(), 64U << 20);
  EXPECT_EQ(out.memory_events().max(), 3U);
  EXPECT_EQ(out.pids().current(), 5U);
  EXPECT_EQ(out.pids().limit(), 100U);
  ASSERT_EQ(out.io().usage_size(), 1);
  EXPECT_EQ(out.io().usage(0).wbytes(), 2000U);
  ASSERT_EQ(out.hugetlb_size(), 1);
  EXPECT_EQ(out.hugetlb(0).pagesize(), "2MB");
}

TEST(Stats, OfVersion1AreInNanoseconds) {
  const auto out = v1(sample());
  EXPECT_EQ(out.cpu().usage().total(), 5'000'000U);
  EXPECT_EQ(out.cpu().throttling().throttled_time(), 77'000U);
  EXPECT_EQ(out.memory().rss(), 111U);
  EXPECT_EQ(out.memory().cache(), 222U);
  EXPECT_EQ(out.memory().total_inactive_file(), 33U);
  EXPECT_EQ(out.memory().usage().usage(), 1U << 20);
  EXPECT_EQ(out.memory().usage().failcnt(), 3U);
  EXPECT_EQ(out.memory().swap().usage(), (1U << 20) + 4096);
  ASSERT_EQ(out.blkio().io_service_bytes_recursive_size(), 2);
  EXPECT_EQ(out.blkio().io_service_bytes_recursive(1).op(), "write");
  EXPECT_EQ(out.blkio().io_service_bytes_recursive(1).value(), 2000U);
}

TEST(Stats, WithoutDisksHaveTheirPartNevertheless) {
  protocol::StatsReply stats = sample();
  stats.block.clear();
  EXPECT_TRUE(v1(stats).has_blkio());
  EXPECT_TRUE(v2(stats).has_io());
}

TEST(Stats, WhatIsUnlimitedStaysInBounds) {
  protocol::StatsReply stats;
  stats.cpu_us = UINT64_MAX;
  EXPECT_EQ(v1(stats).cpu().usage().total(), UINT64_MAX);
  EXPECT_EQ(v1(stats).memory().swap().limit(), UINT64_MAX);
  EXPECT_EQ(v1(stats).pids().limit(), 0U);
  EXPECT_EQ(v2(stats).pids().limit(), 0U);
  EXPECT_EQ(v2(stats).memory().usage_limit(), protocol::kUnlimited);
}

}  // namespace
}  // namespace kiln::shim
