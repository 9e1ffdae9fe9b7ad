// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/events_json.h"

#include <gtest/gtest.h>

namespace kiln::runtime {
namespace {

TEST(StatsEvent, HasRuncsMembersWhenNothingIsUsed) {
  const Json data = stats_event_data({});
  EXPECT_EQ(data["cpu"], Json::parse(R"({"usage": {"kernel": 0, "user": 0, "percpu_kernel": null,
    "percpu_user": null}, "throttling": {}})"));
  EXPECT_EQ(data["memory"]["usage"],
            Json::parse(R"({"limit": 18446744073709551615, "failcnt": 0})"));
  EXPECT_EQ(data["pids"], Json::object());
  EXPECT_EQ(data["blkio"], Json::object());
  EXPECT_EQ(data["hugetlb"], Json::object());
  EXPECT_EQ(data["intel_rdt"], Json::object());
  EXPECT_EQ(data["network_interfaces"], nullptr);
}

TEST(StatsEvent, CountsAsRuncCounts) {
  protocol::StatsReply stats;
  stats.cpu_us = 5;
  stats.throttled_us = UINT64_MAX;
  stats.memory_bytes = 100;
  stats.memory_limit_bytes = 1000;
  stats.swap_bytes = 10;
  stats.swap_limit_bytes = protocol::kUnlimited;
  stats.memory_stat = {{"file", 7}};
  stats.pids = 3;
  stats.pids_limit = 9;
  stats.block = {{254, 0, 1, 2, 3, 4}};
  stats.hugepages = {{"2MB", {2 << 20, 1}}};
  const Json data = stats_event_data(stats);
  EXPECT_EQ(data["cpu"]["usage"]["total"], 5000);
  EXPECT_EQ(data["cpu"]["throttling"]["throttledTime"], UINT64_MAX);
  EXPECT_EQ(data["memory"]["cache"], 7);
  EXPECT_EQ(data["memory"]["raw"], Json({{"file", 7}}));
  EXPECT_EQ(data["memory"]["swap"]["usage"], 110);
  EXPECT_EQ(data["memory"]["swap"]["limit"], UINT64_MAX);
  EXPECT_EQ(data["pids"], Json({{"current", 3}, {"limit", 9}}));
  EXPECT_EQ(data["blkio"]["ioServiceBytesRecursive"][1],
            Json({{"major", 254}, {"op", "Write"}, {"value", 2}}));
  EXPECT_EQ(data["blkio"]["ioServicedRecursive"][0]["value"], 3);
  EXPECT_EQ(data["hugetlb"]["2MB"], Json({{"usage", 2 << 20}, {"failcnt", 1}}));
}

}  // namespace
}  // namespace kiln::runtime
