// SPDX-License-Identifier: Apache-2.0
#include "oci/mount_options.h"

#include <gtest/gtest.h>
#include <linux/mount.h>

#include <algorithm>

namespace kiln::oci {
namespace {

MountOptions parse(const std::vector<std::string>& options) {
  const auto parsed = parse_mount_options(options);
  EXPECT_TRUE(parsed.has_value()) << (parsed ? "" : parsed.error().rule);
  return parsed.value_or(MountOptions{});
}

TEST(MountOptions, FlagsAreSet) {
  const MountOptions options = parse({"ro", "nosuid", "nodev", "noexec", "sync", "nosymfollow"});
  EXPECT_EQ(options.set, static_cast<unsigned long>(MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC |
                                                    MS_SYNCHRONOUS | MS_NOSYMFOLLOW));
  EXPECT_EQ(options.clear, 0U);
}

TEST(MountOptions, TheLastOfTwoThatContradictWins) {
  const MountOptions rw = parse({"ro", "rw"});
  EXPECT_EQ(rw.set, 0U);
  EXPECT_EQ(rw.clear, static_cast<unsigned long>(MS_RDONLY));
  const MountOptions ro = parse({"rw", "ro"});
  EXPECT_EQ(ro.set, static_cast<unsigned long>(MS_RDONLY));
  EXPECT_EQ(ro.clear, 0U);
}

TEST(MountOptions, AccessTimeModesExcludeEachOther) {
  EXPECT_EQ(parse({"noatime", "strictatime"}).set, static_cast<unsigned long>(MS_STRICTATIME));
  EXPECT_EQ(parse({"strictatime", "nodiratime", "relatime"}).set,
            static_cast<unsigned long>(MS_RELATIME | MS_NODIRATIME));
}

TEST(MountOptions, RecursiveOptionsAreMountAttributes) {
  const MountOptions options = parse({"rro", "rnosuid", "rdev"});
  EXPECT_EQ(options.recursive_set, uint64_t{MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID});
  EXPECT_EQ(options.recursive_clear, uint64_t{MOUNT_ATTR_NODEV});
  EXPECT_EQ(options.set, 0U);
}

TEST(MountOptions, RecursiveOppositesOverride) {
  const MountOptions options = parse({"rro", "rrw", "rnosymfollow"});
  EXPECT_EQ(options.recursive_set, uint64_t{MOUNT_ATTR_NOSYMFOLLOW});
  EXPECT_EQ(options.recursive_clear, uint64_t{MOUNT_ATTR_RDONLY});
}

// mount_setattr(2): EINVAL unless all of MOUNT_ATTR__ATIME is in attr_clr.
TEST(MountOptions, RecursiveAccessTimeReplacesTheWholeField) {
  const MountOptions options = parse({"rnoatime", "rstrictatime"});
  EXPECT_EQ(options.recursive_set, uint64_t{MOUNT_ATTR_STRICTATIME});
  EXPECT_EQ(options.recursive_clear, uint64_t{MOUNT_ATTR__ATIME});
  const MountOptions relatime = parse({"rnoatime", "rrelatime"});
  EXPECT_EQ(relatime.recursive_set, 0U);
  EXPECT_EQ(relatime.recursive_clear, uint64_t{MOUNT_ATTR__ATIME});
}

TEST(MountOptions, RecursiveNodiratimeIsNotAnAccessTimeMode) {
  const MountOptions options = parse({"rnodiratime"});
  EXPECT_EQ(options.recursive_set, uint64_t{MOUNT_ATTR_NODIRATIME});
  EXPECT_EQ(options.recursive_clear, 0U);
}

TEST(MountOptions, PropagationKeepsItsOrder) {
  EXPECT_EQ(parse({"rslave", "shared"}).propagation,
            (std::vector<unsigned long>{MS_SLAVE | MS_REC, MS_SHARED}));
}

TEST(MountOptions, BindRemountCopyUpAndIdMaps) {
  EXPECT_TRUE(parse({"bind"}).bind);
  EXPECT_FALSE(parse({"bind"}).recursive_bind);
  EXPECT_TRUE(parse({"rbind"}).bind);
  EXPECT_TRUE(parse({"rbind"}).recursive_bind);
  EXPECT_TRUE(parse({"remount"}).remount);
  EXPECT_TRUE(parse({"tmpcopyup"}).copy_up);
  EXPECT_EQ(parse({"idmap"}).id_map, IdMapKind::kMount);
  EXPECT_EQ(parse({"ridmap"}).id_map, IdMapKind::kRecursive);
  EXPECT_EQ(parse({}).id_map, IdMapKind::kNone);
}

TEST(MountOptions, TheRestIsTheFileSystemsData) {
  const MountOptions options = parse({"nosuid", "mode=755", "defaults", "size=64k", "newinstance"});
  EXPECT_EQ(options.data, "mode=755,size=64k,newinstance");
}

TEST(MountOptions, AnEmptyOptionIsRefused) {
  const auto parsed = parse_mount_options({"ro", ""});
  ASSERT_FALSE(parsed.has_value());
  EXPECT_EQ(parsed.error().index, 1U);
}

TEST(MountOptions, DataFillsAPageAtMost) {
  EXPECT_TRUE(parse_mount_options({std::string(4095, 'x')}).has_value());
  EXPECT_FALSE(parse_mount_options({std::string(4096, 'x')}).has_value());
}

// The table is searched by bisection.
TEST(MountOptions, EveryNameOfTheTableIsFound) {
  const auto names = mount_option_names();
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
  for (const auto& name : names) EXPECT_EQ(parse({name}).data, "") << name;
}

}  // namespace
}  // namespace kiln::oci
