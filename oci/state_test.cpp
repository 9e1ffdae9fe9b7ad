// SPDX-License-Identifier: Apache-2.0
#include "oci/state.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace kiln::oci {
namespace {

State example() {
  State state;
  state.oci_version = "1.2.1";
  state.id = "c1";
  state.status = "running";
  state.pid = 4422;
  state.bundle = "/containers/redis";
  state.annotations = {{"myKey", "myValue"}};
  return state;
}

TEST(State, HasTheSpecsMembersOnlyUnlessMoreAreSet) {
  EXPECT_EQ(dump_json(to_json(example())),
            R"({"annotations":{"myKey":"myValue"},"bundle":"/containers/redis","id":"c1",)"
            R"("ociVersion":"1.2.1","pid":4422,"status":"running"})");
}

TEST(State, RuncsMembersAreWrittenWhenSet) {
  State state = example();
  state.rootfs = "/containers/redis/rootfs";
  state.created = "2024-01-01T00:00:00Z";
  state.owner = "root";
  const Json json = to_json(state);
  EXPECT_EQ(json["rootfs"], "/containers/redis/rootfs");
  EXPECT_EQ(json["created"], "2024-01-01T00:00:00Z");
  EXPECT_EQ(json["owner"], "root");
}

// runc writes 0 for a container that has stopped.
TEST(State, PidIsWrittenEvenWhenItIsZero) {
  State state = example();
  state.pid = 0;
  EXPECT_EQ(to_json(state)["pid"], 0);
}

TEST(State, RoundTrip) {
  const Json json = to_json(example());
  const auto state = parse_state(json);
  ASSERT_TRUE(state.has_value()) << state.error().message;
  EXPECT_EQ(to_json(*state), json);
}

TEST(State, UnknownStatusIsRefused) {
  State state = example();
  state.status = "asleep";
  const auto parsed = parse_state(to_json(state));
  ASSERT_FALSE(parsed.has_value());
  EXPECT_EQ(parsed.error().message,
            "state.json: /status: must be one of creating, created, running, paused, stopped, is "
            "`asleep`");
}

}  // namespace
}  // namespace kiln::oci
