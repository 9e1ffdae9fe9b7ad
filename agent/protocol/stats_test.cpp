// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "agent/protocol/messages.h"

namespace kiln::protocol {
namespace {

StatsReply sample() {
  StatsReply stats;
  stats.cpu_us = 1;
  stats.cpu_user_us = 2;
  stats.cpu_system_us = 3;
  stats.periods = 4;
  stats.throttled_periods = 5;
  stats.throttled_us = 6;
  stats.memory_bytes = 7;
  stats.memory_peak_bytes = 8;
  stats.memory_limit_hits = 9;
  stats.swap_bytes = 10;
  stats.swap_limit_bytes = 11;
  stats.memory_stat = {{"anon", 12}, {"file", UINT64_MAX}};
  stats.pids = 13;
  stats.pids_limit = 14;
  stats.block = {{8, UINT32_MAX, 15, 16, 17, 18}};
  stats.hugepages = {{"2MB", {19, 20}}};
  return stats;
}

std::string error_of(const Json& value) {
  const auto result = from_json<StatsReply>(value);
  return result ? "accepted" : result.error().message;
}

TEST(StatsReply, SurvivesTheWayThroughJson) {
  const Json written = to_json(sample());
  const auto parsed = from_json<StatsReply>(written);
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(to_json(*parsed), written);
  EXPECT_EQ(parsed->memory_limit_bytes, kUnlimited);
  EXPECT_EQ(parsed->memory_stat.at("file"), UINT64_MAX);
  EXPECT_EQ(parsed->block.front().minor, UINT32_MAX);
  EXPECT_EQ(parsed->hugepages.at("2MB").limit_hits, 20U);
}

TEST(StatsReply, NumbersMustBeThereAndNotNegative) {
  Json missing = to_json(sample());
  missing.erase("pids");
  EXPECT_EQ(error_of(missing), "/pids: is missing");
  Json negative = to_json(sample());
  negative["memory"] = -1;
  EXPECT_EQ(error_of(negative), "/memory: must be an integer, not negative");
  Json stat = to_json(sample());
  stat["memoryStat"]["anon"] = "7";
  EXPECT_EQ(error_of(stat), "/memoryStat/anon: must be an integer, not negative");
}

TEST(StatsReply, NamesAreNamesOnly) {
  for (const char* name : {"", "a b", "\x1b[31m", "a/b", "2MB\n"}) {
    Json value = to_json(sample());
    value["memoryStat"][name] = 1;
    EXPECT_NE(error_of(value), "accepted") << name;
    Json pages = to_json(sample());
    pages["hugepages"][name] = {{"usage", 1}, {"limitHits", 1}};
    EXPECT_NE(error_of(pages), "accepted") << name;
  }
  Json value = to_json(sample());
  value["memoryStat"][std::string(65, 'a')] = 1;
  EXPECT_NE(error_of(value), "accepted");
}

TEST(StatsReply, ListsAreBounded) {
  Json value = to_json(sample());
  for (int i = 0; i < 300; ++i) value["block"].push_back(value["block"][0]);
  EXPECT_EQ(error_of(value), "/block: has more than 256 entries");
  Json stat = to_json(sample());
  for (int i = 0; i < 300; ++i) stat["memoryStat"]["key" + std::to_string(i)] = 1;
  EXPECT_EQ(error_of(stat), "/memoryStat: has more than 256 entries");
}

TEST(StatsReply, UnknownMembersAreRefused) {
  Json value = to_json(sample());
  value["block"][0]["more"] = 1;
  EXPECT_EQ(error_of(value), "/block/0/more: is not a member that is known here");
}

TEST(UpdateRequest, SurvivesTheWayThroughJson) {
  const UpdateRequest request{"c1", {{"pids", {{"limit", 5}}}}};
  const auto parsed = from_json<UpdateRequest>(to_json(request));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->container_id, "c1");
  EXPECT_EQ(parsed->resources, request.resources);
  EXPECT_FALSE(from_json<UpdateRequest>({{"container", "c1"}, {"resources", 1}}));
}

}  // namespace
}  // namespace kiln::protocol
