// SPDX-License-Identifier: Apache-2.0
#include "runtime/container_update.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "oci/parse.h"

namespace kiln::runtime {
namespace {

oci::Resources resources(const char* json) {
  return oci::parse_resources(Json::parse(json), "test").value();
}

ResourceUpdate plan(const char* current, const char* changes) {
  auto update = plan_update(resources(current), Json::parse(changes), "update", nullptr);
  EXPECT_TRUE(update) << update.error().message;
  return update.value_or(ResourceUpdate());
}

std::string failure(const char* current, const char* changes) {
  const auto update = plan_update(resources(current), Json::parse(changes), "update", nullptr);
  return update ? "accepted" : update.error().message;
}

TEST(PlanUpdate, ChangesWhatIsNamedAndKeepsTheRest) {
  const auto update = plan(R"({"memory": {"limit": 100}, "pids": {"limit": 5}})",
                           R"({"pids": {"limit": 7}, "cpu": {"shares": 512}})");
  EXPECT_EQ(update.merged.memory->limit, 100);
  EXPECT_EQ(update.merged.pids->limit, 7);
  EXPECT_EQ(update.merged.cpu->shares, 512U);
  EXPECT_FALSE(update.guest.memory);
  EXPECT_EQ(update.guest.pids->limit, 7);
}

TEST(PlanUpdate, ZeroEmptyAndNullLeaveThingsAsTheyAre) {
  const auto update = plan(
      R"({"memory": {"limit": 100, "swap": 200}, "cpu": {"quota": 5000}})",
      R"({"memory": {"limit": 0, "swap": null}, "cpu": {"quota": 0, "cpus": ""}, "blockIO": {}})");
  EXPECT_EQ(update.merged.memory->limit, 100);
  EXPECT_EQ(update.merged.memory->swap, 200);
  EXPECT_EQ(update.merged.cpu->quota, 5000);
  EXPECT_FALSE(update.guest.memory);
  EXPECT_FALSE(update.guest.cpu);
}

TEST(PlanUpdate, QuotaAndPeriodGoTogether) {
  const auto update = plan(R"({"cpu": {"quota": 5000, "period": 20000, "shares": 2}})",
                           R"({"cpu": {"quota": 9000}})");
  EXPECT_EQ(update.guest.cpu->quota, 9000);
  EXPECT_EQ(update.guest.cpu->period, 20000U);
  EXPECT_FALSE(update.guest.cpu->shares);
}

TEST(PlanUpdate, SwapIsCountedFromTheLimitThatHolds) {
  const auto update =
      plan(R"({"memory": {"limit": 100, "swap": 300}})", R"({"memory": {"limit": 200}})");
  EXPECT_EQ(update.guest.memory->limit, 200);
  EXPECT_EQ(update.guest.memory->swap, 300);
  EXPECT_EQ(
      plan(R"({"memory": {"limit": 100}})", R"({"memory": {"swap": 300}})").guest.memory->limit,
      100);
}

TEST(PlanUpdate, ALimitAboveMemoryAndSwapIsRefused) {
  EXPECT_NE(failure(R"({"memory": {"limit": 100, "swap": 300}})", R"({"memory": {"limit": 400}})"),
            "accepted");
}

TEST(PlanUpdate, CpusOfTheHostAreNotTheGuests) {
  const auto update = plan("{}", R"({"cpu": {"cpus": "0-1"}})");
  EXPECT_EQ(update.merged.cpu->cpus, "0-1");
  EXPECT_EQ(update.guest.cpu->cpus, "");
}

TEST(PlanUpdate, DevicesStayAsTheyAre) {
  const auto update = plan(R"({"devices": [{"allow": false, "access": "rwm"}]})",
                           R"({"devices": [{"allow": true, "access": "rwm"}]})");
  ASSERT_EQ(update.merged.devices.size(), 1U);
  EXPECT_FALSE(update.merged.devices.front().allow);
}

TEST(PlanUpdate, NonsenseIsRefused) {
  EXPECT_EQ(failure("{}", "[]"), "update: must be an object");
  EXPECT_NE(failure("{}", R"({"memory": {"limit": "x"}})"), "accepted");
  EXPECT_NE(failure("{}", R"({"memory": 5})"), "accepted");
  EXPECT_NE(failure(R"({"cpu": {"quota": 5000}})", R"({"cpu": [1]})"), "accepted");
}

}  // namespace
}  // namespace kiln::runtime
