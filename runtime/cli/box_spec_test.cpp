// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/box_spec.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace kiln::runtime {
namespace {

const std::vector<std::string> kEnvironment{"PATH=/my/bin", "HOME=/home/me", "SECRET=token",
                                            "TERM=xterm"};

bool has(const std::vector<std::string>& list, const std::string& entry) {
  return std::find(list.begin(), list.end(), entry) != list.end();
}

TEST(BoxSpec, RunsTheCommandWhereTheCallerIs) {
  BoxOptions options;
  options.command = {"uname", "-a"};
  const auto spec = box_spec(options, "/tmp", kEnvironment);
  ASSERT_TRUE(spec) << spec.error().message;
  EXPECT_EQ(spec->process->args, options.command);
  EXPECT_EQ(spec->process->cwd, "/tmp");
  EXPECT_EQ(spec->root->path, "/");
  EXPECT_TRUE(has(spec->process->env, "PATH=/my/bin"));
  EXPECT_TRUE(has(spec->process->env, "HOME=/home/me"));
}

TEST(BoxSpec, OnlyChosenVariablesEnter) {
  BoxOptions options;
  options.command = {"env"};
  auto spec = box_spec(options, "/", kEnvironment);
  EXPECT_FALSE(has(spec->process->env, "SECRET=token"));
  options.env = {"SECRET", "A=b", "ABSENT"};
  spec = box_spec(options, "/", kEnvironment);
  EXPECT_TRUE(has(spec->process->env, "SECRET=token"));
  EXPECT_TRUE(has(spec->process->env, "A=b"));
}

TEST(BoxSpec, SharesKeepTheirAccess) {
  BoxOptions options;
  options.command = {"true"};
  options.rw = {"/tmp:/out"};
  options.ro = {"/etc"};
  const auto spec = box_spec(options, "/", kEnvironment);
  ASSERT_TRUE(spec) << spec.error().message;
  const auto& mounts = spec->mounts;
  const auto at = [&](const std::string& destination) {
    return *std::find_if(mounts.begin(), mounts.end(),
                         [&](const auto& m) { return m.destination == destination; });
  };
  EXPECT_EQ(at("/out").source, "/tmp");
  EXPECT_EQ(at("/out").options, (oci::Strings{"rbind", "rw"}));
  EXPECT_EQ(at("/etc").options, (oci::Strings{"rbind", "ro"}));
}

TEST(BoxSpec, BadFlagsAreRefused) {
  BoxOptions options;
  EXPECT_FALSE(box_spec(options, "/", {})) << "no command";
  options.command = {"true"};
  options.rw = {"/nonexistent/directory"};
  EXPECT_FALSE(box_spec(options, "/", {}));
  options.rw = {"/tmp:relative"};
  EXPECT_FALSE(box_spec(options, "/", {}));
  options.rw = {"/tmp:/"};
  EXPECT_FALSE(box_spec(options, "/", {}));
  options.rw.clear();
  options.workdir = "relative";
  EXPECT_FALSE(box_spec(options, "/", {}));
}

TEST(BoxSpec, MemoryHasUnits) {
  EXPECT_EQ(*parse_memory_mib("512"), 512U);
  EXPECT_EQ(*parse_memory_mib("512M"), 512U);
  EXPECT_EQ(*parse_memory_mib("2g"), 2048U);
  EXPECT_EQ(*parse_memory_mib("1GiB"), 1024U);
  for (const char* bad : {"", "0", "M", "-1", "1.5G", "1T", "99999999999999999999"})
    EXPECT_FALSE(parse_memory_mib(bad)) << bad;
}

}  // namespace
}  // namespace kiln::runtime
