// SPDX-License-Identifier: Apache-2.0
#include "runtime/cgroup/hierarchies.h"

#include <gtest/gtest.h>

namespace kiln::runtime {
namespace {

constexpr char kHybridMounts[] =
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
    "50 23 0:32 /x /srv/other/memory rw,relatime - cgroup cgroup rw,memory\n";

TEST(Hierarchies, HybridHasControllersInV1AndV2Beside) {
  const Hierarchies found = parse_hierarchies(
      kHybridMounts, "4:memory:/a/b\n2:cpu,cpuacct:/\n1:name=systemd:/u.scope\n0::/\n");
  EXPECT_FALSE(found.unified());
  ASSERT_EQ(found.by_controller.size(), 5U);
  EXPECT_EQ(found.by_controller.at("cpu").mount, "/sys/fs/cgroup/cpu,cpuacct");
  EXPECT_EQ(found.by_controller.at("cpuacct").own, "/sys/fs/cgroup/cpu,cpuacct");
  EXPECT_EQ(found.by_controller.at("memory").mount, "/sys/fs/cgroup/memory");
  EXPECT_EQ(found.by_controller.at("memory").own, "/sys/fs/cgroup/memory/a/b");
  EXPECT_EQ(found.by_controller.at("name=systemd").own, "/sys/fs/cgroup/systemd/u.scope");
  EXPECT_EQ(found.by_controller.at("").mount, "/sys/fs/cgroup/unified");
}

TEST(Hierarchies, UnifiedIsV2Alone) {
  const Hierarchies found =
      parse_hierarchies("31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n",
                        "0::/user.slice/a.scope\n");
  EXPECT_TRUE(found.unified());
  EXPECT_EQ(found.by_controller.at("").own, "/sys/fs/cgroup/user.slice/a.scope");
}

TEST(Hierarchies, APartOfAHostsHierarchyIsTheWholeToUs) {
  const char* mounts = "31 23 0:28 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
  EXPECT_EQ(parse_hierarchies(mounts, "3:memory:/docker/x/y\n").by_controller.at("memory").own,
            "/sys/fs/cgroup/memory/y");
  EXPECT_EQ(parse_hierarchies(mounts, "3:memory:/docker/x\n").by_controller.at("memory").own,
            "/sys/fs/cgroup/memory");
}

TEST(Hierarchies, NothingMountedIsNoError) {
  EXPECT_TRUE(
      parse_hierarchies("23 1 0:1 / / rw - ext4 /dev/sda rw\nbroken\n", "0::/\n:\n").empty());
}

}  // namespace
}  // namespace kiln::runtime
