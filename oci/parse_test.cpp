// SPDX-License-Identifier: Apache-2.0
#include "oci/parse.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/file.h"

namespace kiln::oci {
namespace {

Json default_json() { return to_json(default_spec(false)); }

std::string error_of(const Json& json) {
  const auto spec = parse_spec(json);
  return spec ? "no error" : spec.error().message;
}

Spec parse_or_die(const Json& json) {
  auto spec = parse_spec(json);
  EXPECT_TRUE(spec.has_value()) << (spec ? "" : spec.error().message);
  return spec ? *spec : Spec{};
}

Json data_file(const std::string& name) {
  const auto text = read_file(std::string(KILN_SOURCE_ROOT "/tests/data/") + name);
  EXPECT_TRUE(text.has_value()) << (text ? "" : text.error().message);
  const auto json = parse_json(text.value_or("null"));
  EXPECT_TRUE(json.has_value()) << (json ? "" : json.error().message);
  return json.value_or(Json());
}

std::string patched_text(const Json& variant) {
  if (variant.contains("raw")) return variant["raw"].get<std::string>();
  Json config = default_json();
  config.merge_patch(variant["patch"]);
  return dump_json(config);
}

TEST(ParseSpec, EachBrokenVariantIsRefusedWithItsMessage) {
  const Json variants = data_file("broken_configs.json");
  ASSERT_GE(variants.size(), 50U);
  for (const Json& variant : variants) {
    const auto spec = parse_spec_text(patched_text(variant));
    ASSERT_FALSE(spec.has_value()) << variant["name"];
    EXPECT_EQ(spec.error().message, variant["message"].get<std::string>()) << variant["name"];
    EXPECT_EQ(spec.error().kind, ErrorKind::kInvalidArgument) << variant["name"];
  }
}

// Holds every member that the structs know, each with a value that is not its default.
TEST(ParseSpec, EveryMemberSurvivesTheRoundTrip) {
  const Json full = data_file("full_config.json");
  std::vector<std::string> warnings;
  const auto spec = parse_spec(full, &warnings);
  ASSERT_TRUE(spec.has_value()) << spec.error().message;
  EXPECT_TRUE(warnings.empty()) << warnings.front();
  EXPECT_EQ(to_json(*spec), full) << Json::diff(full, to_json(*spec)).dump(1);
}

TEST(ParseSpec, MembersLandWhereTheyBelong) {
  const Spec spec = parse_or_die(data_file("full_config.json"));
  EXPECT_EQ(spec.process->console_size->height, 40U);
  EXPECT_EQ(spec.process->console_size->width, 120U);
  EXPECT_EQ(spec.process->user.uid, 1000U);
  EXPECT_EQ(spec.process->user.gid, 1001U);
  EXPECT_EQ(spec.process->user.umask, 077U);
  EXPECT_EQ(spec.process->rlimits[0].soft, 1024U);
  EXPECT_EQ(spec.process->rlimits[0].hard, 18446744073709551615U);
  EXPECT_EQ(spec.process->capabilities->inheritable, Strings{"CAP_NET_RAW"});
  EXPECT_EQ(spec.linux.uid_mappings[0].container_id, 0U);
  EXPECT_EQ(spec.linux.uid_mappings[0].host_id, 100000U);
  EXPECT_EQ(spec.linux.resources->memory->swap, 1073741824);
  EXPECT_EQ(spec.linux.resources->memory->kernel_tcp, 1048576);
  EXPECT_EQ(spec.linux.resources->cpu->realtime_period, 1000000U);
  EXPECT_EQ(spec.linux.resources->block_io->throttle_write_iops_device[0].rate, 40U);
  EXPECT_EQ(spec.linux.seccomp->syscalls[0].args[0].value_two, 18446744073709551615U);
  EXPECT_EQ(spec.linux.time_offsets.at("boottime").secs, -7);
  EXPECT_EQ(spec.hooks->start_container[0].timeout, 5);
}

TEST(ParseSpec, UnknownMembersAreIgnoredWithAWarning) {
  Json json = default_json();
  json["process"]["user"]["username"] = "x";
  json["windows"] = Json::object();
  std::vector<std::string> warnings;
  const auto spec = parse_spec(json, &warnings);
  ASSERT_TRUE(spec.has_value());
  EXPECT_EQ(warnings,
            (std::vector<std::string>{
                "config.json: /process/user/username: is not a member that this runtime knows, "
                "ignoring",
                "config.json: /windows: is not a member that this runtime knows, ignoring"}));
  EXPECT_EQ(to_json(*spec), default_json());
}

TEST(ParseSpec, UnknownCapabilityIsDroppedWithAWarning) {
  Json json = default_json();
  json["process"]["capabilities"]["bounding"] = {"CAP_KILL", "CAP_FLY"};
  std::vector<std::string> warnings;
  const auto spec = parse_spec(json, &warnings);
  ASSERT_TRUE(spec.has_value());
  EXPECT_EQ(spec->process->capabilities->bounding, Strings{"CAP_KILL"});
  EXPECT_EQ(warnings, std::vector<std::string>{"config.json: /process/capabilities/bounding: "
                                               "unknown capability `CAP_FLY`, ignoring"});
}

// config.md#mounts: relative destinations are deprecated, not forbidden.
TEST(ParseSpec, RelativeMountDestinationIsTakenFromTheRoot) {
  Json json = default_json();
  json["mounts"][0]["destination"] = "proc";
  std::vector<std::string> warnings;
  const auto spec = parse_spec(json, &warnings);
  ASSERT_TRUE(spec.has_value());
  EXPECT_EQ(spec->mounts[0].destination, "/proc");
  EXPECT_EQ(warnings.size(), 1U);
}

TEST(ParseSpec, NullMeansAbsent) {
  Json json = default_json();
  json["hooks"] = nullptr;
  json["process"]["env"] = nullptr;
  json["mounts"][0]["options"] = nullptr;
  const Spec spec = parse_or_die(json);
  EXPECT_FALSE(spec.hooks.has_value());
  EXPECT_TRUE(spec.process->env.empty());
  EXPECT_TRUE(spec.mounts[0].options.empty());
}

TEST(ParseSpec, EmptyCapabilitiesAreNotAbsentOnes) {
  Json json = default_json();
  json["process"]["capabilities"] = Json::object();
  const Spec spec = parse_or_die(json);
  ASSERT_TRUE(spec.process->capabilities.has_value());
  EXPECT_TRUE(to_json(spec)["process"].contains("capabilities"));
}

TEST(ParseSpec, LaterMinorVersionsAndPreReleasesAreTaken) {
  for (const char* version : {"1.0.0", "1.0.2-dev", "1.2.1", "1.3.0", "1.0.0-rc5+build"}) {
    Json json = default_json();
    json["ociVersion"] = version;
    EXPECT_EQ(parse_or_die(json).oci_version, version);
  }
  for (const char* version : {"", "1", "1.", "1.0.", "1.0.0-", "1.0.0.0", "v1.0.0", "10.0.0"}) {
    Json json = default_json();
    json["ociVersion"] = version;
    EXPECT_NE(error_of(json), "no error") << version;
  }
}

TEST(ParseSpec, BoundsOfIntegersAreInclusive) {
  Json json = default_json();
  json["process"]["oomScoreAdj"] = -1000;
  json["process"]["user"]["uid"] = 4294967295U;
  json["linux"]["resources"]["cpu"]["quota"] = std::numeric_limits<int64_t>::min();
  json["linux"]["resources"]["cpu"]["shares"] = std::numeric_limits<uint64_t>::max();
  json["linux"]["resources"]["memory"]["limit"] = std::numeric_limits<int64_t>::max();
  const Spec spec = parse_or_die(json);
  EXPECT_EQ(spec.process->oom_score_adj, -1000);
  EXPECT_EQ(spec.process->user.uid, 4294967295U);
  EXPECT_EQ(spec.linux.resources->cpu->quota, std::numeric_limits<int64_t>::min());
  EXPECT_EQ(spec.linux.resources->cpu->shares, std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(spec.linux.resources->memory->limit, std::numeric_limits<int64_t>::max());
}

TEST(ParseSpec, LongValuesAreCutInTheMessageBetweenCharacters) {
  Json json = default_json();
  json["process"]["cwd"] = std::string(99, 'x') + "ééé";
  EXPECT_EQ(error_of(json), "config.json: /process/cwd: must be an absolute path, is `" +
                                std::string(99, 'x') + "…`");
}

TEST(ParseSpec, ProcessMayBeAbsent) {
  Json json = default_json();
  json.erase("process");
  EXPECT_FALSE(parse_or_die(json).process.has_value());
}

TEST(ParseProcess, MessagesNameTheFile) {
  const auto process = parse_process(Json{{"args", {"sh"}}, {"cwd", "x"}}, "p.json");
  ASSERT_FALSE(process.has_value());
  EXPECT_EQ(process.error().message, "p.json: /cwd: must be an absolute path, is `x`");
}

TEST(ParseProcess, AValueThatIsNotAnObjectIsRefused) {
  const auto process = parse_process(Json(5), "p.json");
  ASSERT_FALSE(process.has_value());
  EXPECT_EQ(process.error().message, "p.json: must be an object, is `5`");
}

TEST(ParseProcess, RoundTrip) {
  const Json json = to_json(*default_spec(false).process);
  const auto process = parse_process(json);
  ASSERT_TRUE(process.has_value());
  EXPECT_EQ(to_json(*process), json);
}

}  // namespace
}  // namespace kiln::oci
