// SPDX-License-Identifier: Apache-2.0
#include "oci/features.h"

#include <gtest/gtest.h>
#include <linux/capability.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "oci/enums.h"
#include "oci/mount_options.h"

namespace kiln::oci {
namespace {

bool has(const Json& list, const std::string& value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

TEST(Features, ListsWhatTheParserKnows) {
  const Json json = features({});
  EXPECT_EQ(json["ociVersionMin"], "1.0.0");
  EXPECT_EQ(json["hooks"].size(), 6U);
  EXPECT_EQ(json["mountOptions"].size(), mount_option_names().size());
  EXPECT_TRUE(has(json["mountOptions"], "rro"));
  EXPECT_EQ(json["linux"]["namespaces"].size(), 8U);
  EXPECT_EQ(json["linux"]["capabilities"].size(), size_t{CAP_LAST_CAP} + 1);
  EXPECT_TRUE(has(json["linux"]["seccomp"]["actions"], "SCMP_ACT_NOTIFY"));
}

TEST(Features, ClaimsNothingUnasked) {
  const Json json = features({});
  for (const char* manager : {"v1", "v2", "systemd", "systemdUser"})
    EXPECT_EQ(json["linux"]["cgroup"][manager], true) << manager;
  EXPECT_EQ(json["linux"]["apparmor"]["enabled"], false);
  EXPECT_EQ(json["linux"]["selinux"]["enabled"], false);
  EXPECT_EQ(json["linux"]["intelRdt"]["enabled"], false);
  EXPECT_EQ(json["linux"]["mountExtensions"]["idmap"]["enabled"], false);
  EXPECT_EQ(json["linux"]["netDevices"]["enabled"], false);
  EXPECT_FALSE(json.contains("annotations"));
}

TEST(Features, SaysWhatTheCallerSupports) {
  const Json json =
      features({.idmap_mounts = true, .unsafe_annotations = {"x."}, .annotations = {{"a", "b"}}});
  EXPECT_EQ(json["potentiallyUnsafeConfigAnnotations"], Json{"x."});
  EXPECT_EQ(json["linux"]["mountExtensions"]["idmap"]["enabled"], true);
  EXPECT_EQ(json["annotations"]["a"], "b");
}

TEST(Capabilities, AreNamedByTheirNumber) {
  EXPECT_EQ(capability_number("CAP_CHOWN"), CAP_CHOWN);
  EXPECT_EQ(capability_number("CAP_SYS_ADMIN"), CAP_SYS_ADMIN);
  EXPECT_EQ(capability_number("CAP_CHECKPOINT_RESTORE"), CAP_CHECKPOINT_RESTORE);
  EXPECT_EQ(capability_number("cap_chown"), std::nullopt);
}

}  // namespace
}  // namespace kiln::oci
