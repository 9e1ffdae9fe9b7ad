// SPDX-License-Identifier: Apache-2.0
#include "runtime/cgroup/cgroup_path.h"

#include <gtest/gtest.h>

namespace kiln::runtime {
namespace {

const Hierarchies kHybrid{{{"memory", {"/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/me"}},
                           {"pids", {"/sys/fs/cgroup/pids", "/sys/fs/cgroup/pids"}},
                           {"", {"/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/me"}}}};
const Hierarchies kUnified{{{"", {"/sys/fs/cgroup", "/sys/fs/cgroup/user.slice/shell.scope"}}}};

TEST(CgroupPath, IsCleanedSoThatItCannotLeadUp) {
  EXPECT_EQ(clean_cgroup_path(""), "");
  EXPECT_EQ(clean_cgroup_path("/"), "/");
  EXPECT_EQ(clean_cgroup_path("/a//b/./c/"), "/a/b/c");
  EXPECT_EQ(clean_cgroup_path("a/../../../b"), "b");
  EXPECT_EQ(clean_cgroup_path("/../../etc"), "/etc");
  EXPECT_EQ(clean_cgroup_path("../.."), "");
}

TEST(PlaceCgroup, AbsoluteIsBelowEachMount) {
  const HostCgroup cgroup = place_cgroup(kHybrid, "/a/b", "c1");
  EXPECT_FALSE(cgroup.unified);
  EXPECT_EQ(cgroup.directories.at("memory"), "/sys/fs/cgroup/memory/a/b");
  EXPECT_EQ(cgroup.directories.at("pids"), "/sys/fs/cgroup/pids/a/b");
  EXPECT_EQ(cgroup.directories.at(""), "/sys/fs/cgroup/unified/a/b");
}

TEST(PlaceCgroup, RelativeIsBelowOurOwnInV1) {
  const HostCgroup cgroup = place_cgroup(kHybrid, "a/b", "c1");
  EXPECT_EQ(cgroup.directories.at("memory"), "/sys/fs/cgroup/memory/me/a/b");
  EXPECT_EQ(cgroup.directories.at("pids"), "/sys/fs/cgroup/pids/a/b");
}

TEST(PlaceCgroup, RelativeIsBesideOurOwnInV2) {
  const HostCgroup cgroup = place_cgroup(kUnified, "a", "c1");
  EXPECT_TRUE(cgroup.unified);
  EXPECT_EQ(cgroup.directories.at(""), "/sys/fs/cgroup/user.slice/a");
  EXPECT_EQ(
      place_cgroup({{{"", {"/sys/fs/cgroup", "/sys/fs/cgroup"}}}}, "a", "c1").directories.at(""),
      "/sys/fs/cgroup/a");
}

TEST(PlaceCgroup, WithoutAPathTheIdIsTheName) {
  EXPECT_EQ(place_cgroup(kUnified, "", "c1").directories.at(""), "/sys/fs/cgroup/user.slice/c1");
}

TEST(PlaceCgroup, TheTopIsTheMountItself) {
  EXPECT_EQ(place_cgroup(kUnified, "/", "c1").directories.at(""), "/sys/fs/cgroup");
}

TEST(ScopeName, ComesFromThreeParts) {
  const auto name = parse_scope_name("machine-kiln.slice:libpod:c1", "id", false);
  ASSERT_TRUE(name) << name.error().message;
  EXPECT_EQ(name->slice, "machine-kiln.slice");
  EXPECT_EQ(name->unit, "libpod-c1.scope");
  EXPECT_EQ(name->path, "/machine.slice/machine-kiln.slice/libpod-c1.scope");
}

TEST(ScopeName, HasDefaults) {
  EXPECT_EQ(parse_scope_name("", "c1", false)->path, "/system.slice/kiln-c1.scope");
  EXPECT_EQ(parse_scope_name("", "c1", true)->slice, "user.slice");
  EXPECT_EQ(parse_scope_name(":p:n", "c1", false)->path, "/system.slice/p-n.scope");
  EXPECT_EQ(parse_scope_name("-.slice:p:n", "c1", false)->path, "/p-n.scope");
}

TEST(ScopeName, BadOnesAreRefused) {
  EXPECT_EQ(parse_scope_name("/a/b", "c1", false).error().message,
            "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got "
            "\"/a/b\" instead");
  for (const char* bad : {"a.slice:b", "a.slice:b:c:d", "a:b:c", "a--b.slice:p:n", "-a.slice:p:n",
                          ".slice:p:n", "a/b.slice:p:n", "a.slice:p:", "a.slice:p:x/y"})
    EXPECT_FALSE(parse_scope_name(bad, "c1", false)) << bad;
}

}  // namespace
}  // namespace kiln::runtime
