// SPDX-License-Identifier: Apache-2.0
#include "shim/bootstrap.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <optional>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/json.h"
#include "base/temporary_directory.h"
#include "base/unix_socket.h"
#include "shim.pb.h"
#include "shim/address.h"
#include "shim/task_options.h"
#include "task.pb.h"

namespace kiln::shim {
namespace {

TEST(Group, IsThePodOfAContainer) {
  EXPECT_EQ(group_of(R"({"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}})", "c1"), "pod");
  EXPECT_EQ(group_of(R"({"annotations": {"io.containerd.runc.v2.group": "group",
                                         "io.kubernetes.cri.sandbox-id": "pod"}})",
                     "c1"),
            "group");
}

TEST(Group, IsTheContainerItselfOtherwise) {
  for (const char* config : {"", "not json", "[]", "{}", R"({"annotations": null})",
                             R"({"annotations": []})", R"({"annotations": {"other": "x"}})",
                             R"({"annotations": {"io.kubernetes.cri.sandbox-id": 7}})"})
    EXPECT_EQ(group_of(config, "c1"), "c1") << config;
}

// In a bundle, with somebody serving already, so that no shim is started.
class StartTest : public testing::Test {
 protected:
  void SetUp() override {
    unsetenv("MAX_SHIM_VERSION");
    before_ = std::filesystem::current_path();
    std::filesystem::current_path(directory_.path());
    arguments_.id = "c1";
    arguments_.namespace_name = "default";
    arguments_.address = directory_.path() + "/containerd.sock";
  }
  void TearDown() override {
    unsetenv("MAX_SHIM_VERSION");
    std::filesystem::current_path(before_);
    if (!served_.empty()) unlink(served_.c_str());
  }

  // False where the directory cannot be made.
  bool serve(const std::string& directory, const std::string& group) {
    served_ = socket_path(directory, arguments_.address, "default", group);
    if (!make_directories(directory, 0711)) return false;
    auto listener = listen_unix(served_);
    if (listener) listener_ = std::move(*listener);
    return listener.has_value();
  }

  TemporaryDirectory directory_ = *TemporaryDirectory::create(testing::TempDir(), "start-");
  std::string before_;
  std::string served_;
  UniqueFd listener_;
  Arguments arguments_;
};

TEST_F(StartTest, AnOldContainerdGetsAnAddress) {
  if (!serve(kSocketDirectory, "c1")) GTEST_SKIP() << "cannot make " << kSocketDirectory;
  const auto output = start(arguments_, "");
  ASSERT_TRUE(output) << output.error().message;
  EXPECT_EQ(*output, "unix://" + served_);
  EXPECT_EQ(*read_file("address"), "unix://" + served_);
}

TEST_F(StartTest, ALaterOneGetsJson) {
  if (!serve(kSocketDirectory, "pod")) GTEST_SKIP() << "cannot make " << kSocketDirectory;
  setenv("MAX_SHIM_VERSION", "3", 1);
  ASSERT_TRUE(write_file_atomic(
      "config.json", R"({"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}})", 0600));
  api::Any options;
  options.set_type_url("containerd.runc.v1.Options");
  const auto output = start(arguments_, options.SerializeAsString());
  ASSERT_TRUE(output) << output.error().message;
  const Json json = *parse_json(*output);
  EXPECT_EQ(json.at("address"), "unix://" + served_);
  EXPECT_EQ(json.at("protocol"), "ttrpc");
  EXPECT_GE(json.at("version"), 2);
}

TEST_F(StartTest, TheLatestGetsAMessageAndSaysWhereSocketsAre) {
  const std::string sockets = directory_.path() + "/sockets";
  ASSERT_TRUE(serve(sockets, "c1"));
  api::BootstrapParams params;
  params.set_instance_id("c1");
  params.set_namespace_("default");
  params.set_socket_dir(sockets);
  const auto output = start(arguments_, params.SerializeAsString());
  ASSERT_TRUE(output) << output.error().message;
  api::BootstrapResult result;
  ASSERT_TRUE(result.ParseFromString(*output));
  EXPECT_EQ(result.address(), "unix://" + served_);
  EXPECT_EQ(result.protocol(), "ttrpc");
  EXPECT_EQ(result.version(), 3);
}

TEST_F(StartTest, AnIdThatIsNoneIsRefused) {
  arguments_.id = "../c1";
  EXPECT_EQ(start(arguments_, "").error().kind, ErrorKind::kInvalidArgument);
  EXPECT_FALSE(clean_up(arguments_));
}

TEST_F(StartTest, CleaningUpAfterNothingIsNoError) {
  ASSERT_TRUE(write_root(directory_.path(), directory_.path() + "/state"));
  const std::string dead = directory_.path() + "/dead";
  ASSERT_TRUE(listen_unix(dead));
  ASSERT_TRUE(write_file_atomic("address", "unix://" + dead, 0600));
  for (int i = 0; i < 2; ++i) {
    const auto output = clean_up(arguments_);
    ASSERT_TRUE(output) << output.error().message;
    api::DeleteResponse response;
    ASSERT_TRUE(response.ParseFromString(*output));
    EXPECT_EQ(response.exit_status(), 137U);
    EXPECT_GT(response.exited_at().seconds(), 0);
  }
  EXPECT_NE(access(dead.c_str(), F_OK), 0);
}

TEST(Info, SaysWhoWeAreAndReturnsTheOptions) {
  api::Any options;
  options.set_type_url("containerd.runc.v1.Options");
  const auto output = info(options.SerializeAsString());
  ASSERT_TRUE(output);
  api::RuntimeInfo out;
  ASSERT_TRUE(out.ParseFromString(*output));
  EXPECT_EQ(out.name(), "io.containerd.kiln.v2");
  EXPECT_EQ(out.options().type_url(), "containerd.runc.v1.Options");
  EXPECT_TRUE(parse_json(out.features().value())->contains("ociVersionMin"));
  EXPECT_FALSE(info("\xff\xff\xff"));
}

}  // namespace
}  // namespace kiln::shim
