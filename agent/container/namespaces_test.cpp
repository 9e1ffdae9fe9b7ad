// SPDX-License-Identifier: Apache-2.0
#include "agent/container/namespaces.h"

#include <gtest/gtest.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/mount.h>

#include "agent/container/mount_calls.h"

namespace kiln::agent {
namespace {

TEST(Namespaces, EachTypeHasItsFlag) {
  oci::Linux config;
  config.namespaces = {{"pid", ""}, {"uts", ""}, {"ipc", ""}, {"user", ""}, {"mount", ""}};
  const auto plan = plan_namespaces(config);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->clone_flags, static_cast<uint64_t>(CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC |
                                                     CLONE_NEWUSER | CLONE_NEWNS));
  EXPECT_TRUE(plan->user);
  EXPECT_FALSE(plan->cgroup);
  EXPECT_FALSE(plan->time);
}

TEST(Namespaces, MountNamespaceIsAlwaysNew) {
  EXPECT_EQ(plan_namespaces({})->clone_flags, static_cast<uint64_t>(CLONE_NEWNS));
}

TEST(Namespaces, CgroupAndTimeAreNotForClone) {
  oci::Linux config;
  config.namespaces = {{"cgroup", ""}, {"time", ""}};
  const auto plan = plan_namespaces(config);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->clone_flags, static_cast<uint64_t>(CLONE_NEWNS));
  EXPECT_TRUE(plan->cgroup);
  EXPECT_TRUE(plan->time);
}

TEST(Namespaces, NetworkIsTheGuestsOwn) {
  oci::Linux config;
  config.namespaces = {{"network", "/run/netns/cni-1"}};
  const auto plan = plan_namespaces(config);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->clone_flags & CLONE_NEWNET, 0U);
}

TEST(Namespaces, PathIsRefused) {
  oci::Linux config;
  config.namespaces = {{"ipc", "/proc/1/ns/ipc"}};
  const auto plan = plan_namespaces(config);
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().kind, ErrorKind::kUnimplemented);
  EXPECT_NE(plan.error().message.find("ipc namespace `/proc/1/ns/ipc`"), std::string::npos);
}

TEST(MapId, FindsTheRange) {
  const std::vector<oci::IdMapping> mappings = {{0, 100'000, 10}, {10, 5, 1}};
  EXPECT_EQ(map_id(mappings, 0), 100'000U);
  EXPECT_EQ(map_id(mappings, 9), 100'009U);
  EXPECT_EQ(map_id(mappings, 10), 5U);
  EXPECT_EQ(map_id(mappings, 11), UINT32_MAX);
  EXPECT_EQ(map_id({}, 11), 11U);
}

TEST(MountAttributes, FlagsBecomeAttributes) {
  const auto attributes = attributes_of_flags(MS_RDONLY | MS_NOSUID | MS_SYNCHRONOUS, MS_NODEV);
  EXPECT_EQ(attributes.set, static_cast<uint64_t>(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID));
  EXPECT_EQ(attributes.clear, static_cast<uint64_t>(MOUNT_ATTR_NODEV));
}

TEST(MountAttributes, AccessTimeIsAField) {
  EXPECT_EQ(attributes_of_flags(MS_NOATIME, 0).set, static_cast<uint64_t>(MOUNT_ATTR_NOATIME));
  EXPECT_EQ(attributes_of_flags(MS_NOATIME, 0).clear, static_cast<uint64_t>(MOUNT_ATTR__ATIME));
  EXPECT_EQ(attributes_of_flags(MS_RELATIME, 0).set, 0U);
  EXPECT_EQ(attributes_of_flags(MS_RELATIME, 0).clear, static_cast<uint64_t>(MOUNT_ATTR__ATIME));
  EXPECT_EQ(attributes_of_flags(0, 0).clear, 0U);
}

}  // namespace
}  // namespace kiln::agent
