// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/process.h"
#include "oci/parse.h"

namespace kiln::oci {
namespace {

class DefaultSpec : public testing::TestWithParam<bool> {};

TEST_P(DefaultSpec, IsValidAndSurvivesTheRoundTrip) {
  const Json json = to_json(default_spec(GetParam()));
  std::vector<std::string> warnings;
  const auto spec = parse_spec(json, &warnings);
  ASSERT_TRUE(spec.has_value()) << spec.error().message;
  EXPECT_TRUE(warnings.empty());
  EXPECT_EQ(to_json(*spec), json);
}

std::string runc_program() {
  for (const char* path : {"/usr/sbin/runc", "/usr/bin/runc"})
    if (access(path, X_OK) == 0) return path;
  return "";
}

Json spec_of_runc(const std::string& program, bool rootless) {
  char directory[] = "/tmp/kiln-oci-XXXXXX";
  EXPECT_NE(mkdtemp(directory), nullptr);
  SpawnOptions options;
  options.program = program;
  options.argv = {"runc", "spec", "--bundle", directory};
  if (rootless) options.argv.emplace_back("--rootless");
  options.fds = {{2, 2}};
  const auto run = run_captured(options, "", 1 << 16, 30000);
  EXPECT_TRUE(run.has_value() && run->status.shell_code() == 0);
  const std::string path = std::string(directory) + "/config.json";
  const auto text = read_file(path);
  EXPECT_TRUE(text.has_value());
  unlink(path.c_str());
  rmdir(directory);
  return parse_json(text.value_or("null")).value_or(Json());
}

TEST_P(DefaultSpec, DiffersFromRuncsInNameVersionAndCgroupNamespaceOnly) {
  const std::string program = runc_program();
  if (program.empty()) GTEST_SKIP() << "runc is not installed";
  Json theirs = spec_of_runc(program, GetParam());
  const Json ours = to_json(default_spec(GetParam()));
  ASSERT_TRUE(theirs.is_object());
  theirs["ociVersion"] = ours["ociVersion"];
  theirs["hostname"] = "kiln";
  // runc adds it on hosts with cgroup v2 only; the guest always has v2.
  const Json cgroup{{"type", "cgroup"}};
  Json& namespaces = theirs["linux"]["namespaces"];
  if (std::find(namespaces.begin(), namespaces.end(), cgroup) == namespaces.end())
    namespaces.push_back(cgroup);
  EXPECT_EQ(ours, theirs) << Json::diff(theirs, ours).dump(1);
}

std::string mode_name(const testing::TestParamInfo<bool>& mode) {
  return mode.param ? "rootless" : "root";
}

INSTANTIATE_TEST_SUITE_P(Modes, DefaultSpec, testing::Bool(), mode_name);

}  // namespace
}  // namespace kiln::oci
