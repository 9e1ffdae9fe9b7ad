// SPDX-License-Identifier: Apache-2.0
#include "shim/task_options.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/file.h"
#include "base/temporary_directory.h"
#include "shim.pb.h"

namespace kiln::shim {
namespace {

template <typename Message>
api::Any any(const std::string& type, const Message& message) {
  api::Any out;
  out.set_type_url(type);
  out.set_value(message.SerializeAsString());
  return out;
}

TEST(TaskOptions, AreDefaultsWithoutAny) {
  const auto options = plan_options(api::Any(), "default", "/default/c1");
  ASSERT_TRUE(options);
  EXPECT_EQ(options->root, default_root("default"));
  EXPECT_FALSE(options->systemd_cgroup);
  EXPECT_FALSE(options->config_given);
}

TEST(TaskOptions, RuncsNameTheStateDirectoryAndTheCgroupDriver) {
  api::RuncOptions runc;
  runc.set_root("/run/other");
  runc.set_systemd_cgroup(true);
  runc.set_binary_name("/usr/bin/crun");
  const auto options = plan_options(any("containerd.runc.v1.Options", runc), "k8s.io", "/x");
  ASSERT_TRUE(options);
  EXPECT_EQ(options->root, "/run/other/k8s.io");
  EXPECT_TRUE(options->systemd_cgroup);
}

TEST(TaskOptions, GenericOnesNameTheConfiguration) {
  api::RuntimeOptions generic;
  generic.set_config_path("/etc/kiln/other.yaml");
  const auto options =
      plan_options(any("type.googleapis.com/runtimeoptions.v1.Options", generic), "default", "/x");
  ASSERT_TRUE(options);
  EXPECT_EQ(options->config_path, "/etc/kiln/other.yaml");
  EXPECT_TRUE(options->config_given);
}

TEST(TaskOptions, AnEmptyConfigurationPathIsNone) {
  const auto options =
      plan_options(any("runtimeoptions.v1.Options", api::RuntimeOptions()), "default", "/x");
  ASSERT_TRUE(options);
  EXPECT_FALSE(options->config_given);
}

TEST(TaskOptions, AConfigurationInThemIsRefused) {
  api::RuntimeOptions generic;
  generic.set_config_body("backend: kvm");
  const auto options = plan_options(any("runtimeoptions.v1.Options", generic), "default", "/x");
  ASSERT_FALSE(options);
  EXPECT_EQ(options.error().kind, ErrorKind::kUnimplemented);
}

TEST(TaskOptions, UnknownAndBrokenOnesAreErrors) {
  api::Any unknown;
  unknown.set_type_url("other.v1.Options");
  EXPECT_EQ(plan_options(unknown, "default", "/x").error().kind, ErrorKind::kUnimplemented);
  for (const char* type : {"containerd.runc.v1.Options", "runtimeoptions.v1.Options"}) {
    api::Any broken;
    broken.set_type_url(type);
    broken.set_value("\xff\xff\xff");
    EXPECT_EQ(plan_options(broken, "default", "/x").error().kind, ErrorKind::kInvalidArgument)
        << type;
  }
}

TEST(TaskOptions, ASystemdCgroupIsKnownByItsLookWhereThereIsSystemd) {
  EXPECT_EQ(plan_options(api::Any(), "k8s.io", "kubepods.slice:cri:c1")->systemd_cgroup,
            access("/run/systemd/system", F_OK) == 0);
  EXPECT_FALSE(plan_options(api::Any(), "k8s.io", "/kubepods:cri:c1")->systemd_cgroup);
  EXPECT_FALSE(plan_options(api::Any(), "k8s.io", "a:b")->systemd_cgroup);
  EXPECT_FALSE(plan_options(api::Any(), "k8s.io", "")->systemd_cgroup);
}

TEST(TaskOptions, TheBundleRemembersThem) {
  const auto bundle = *TemporaryDirectory::create(testing::TempDir(), "bundle-");
  EXPECT_EQ(read_options(bundle.path()).type_url(), "");
  api::Any options;
  options.set_type_url("containerd.runc.v1.Options");
  ASSERT_TRUE(write_options(bundle.path(), options));
  EXPECT_EQ(read_options(bundle.path()).type_url(), "containerd.runc.v1.Options");
}

TEST(TaskOptions, TheBundleRemembersTheStateDirectory) {
  const auto bundle = *TemporaryDirectory::create(testing::TempDir(), "bundle-");
  EXPECT_EQ(read_root(bundle.path(), "default"), default_root("default"));
  ASSERT_TRUE(write_root(bundle.path(), "/run/other/default"));
  EXPECT_EQ(read_root(bundle.path(), "default"), "/run/other/default");
}

}  // namespace
}  // namespace kiln::shim
