// SPDX-License-Identifier: Apache-2.0
#include "runtime/hooks.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>

#include "base/file.h"

namespace kiln::runtime {
namespace {

class HooksTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = "/tmp/kiln-hooks-XXXXXX";
    directory_ = mkdtemp(name.data());
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  oci::Hook shell(const std::string& script) const {
    oci::Hook hook;
    hook.path = "/bin/sh";
    hook.args = {"sh", "-c", script};
    return hook;
  }
  HookList list(std::vector<oci::Hook> hooks, HookFailure on_failure = HookFailure::kStop) const {
    return {"createRuntime", std::move(hooks), "{\"id\":\"c1\"}", directory_, on_failure};
  }
  std::string content(const std::string& name) const {
    return read_file(directory_ + "/" + name).value_or("");
  }

  std::string directory_;
};

TEST_F(HooksTest, RunInOrderWithTheStateOnStandardInputInTheBundle) {
  const auto failures =
      run_hooks(list({shell("cat > first; pwd >> first"), shell("cp first second")}));
  ASSERT_TRUE(failures && failures->empty());
  EXPECT_EQ(content("second"), "{\"id\":\"c1\"}" + directory_ + "\n");
}

TEST_F(HooksTest, TheFirstFailureStopsTheListAndSaysWhy) {
  const auto failures = run_hooks(list({shell("echo why >&2; exit 7"), shell("touch second")}));
  ASSERT_EQ(failures->size(), 1U);
  EXPECT_EQ(failures->front().message, "createRuntime hook #0 `/bin/sh`: exit status 7: why");
  EXPECT_FALSE(std::filesystem::exists(directory_ + "/second"));
}

TEST_F(HooksTest, WithContinueTheRestRunsAllTheSame) {
  const auto failures = run_hooks(
      list({shell("exit 1"), shell("kill -9 $$"), shell("touch third")}, HookFailure::kContinue));
  ASSERT_EQ(failures->size(), 2U);
  EXPECT_NE(failures->back().message.find("killed by signal 9"), std::string::npos);
  EXPECT_TRUE(std::filesystem::exists(directory_ + "/third"));
}

TEST_F(HooksTest, ATimeoutKillsTheHookAndItsChildren) {
  oci::Hook hook = shell("sleep 30 & sleep 30");
  hook.timeout = 1;
  const auto began = std::chrono::steady_clock::now();
  const auto failures = run_hooks(list({hook}));
  ASSERT_EQ(failures->size(), 1U);
  EXPECT_NE(failures->front().message.find("timeout of 1 s"), std::string::npos);
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(10));
}

TEST_F(HooksTest, AMissingProgramIsNamed) {
  oci::Hook hook;
  hook.path = "/nonexistent/hook";
  const auto failures = run_hooks(list({hook}));
  ASSERT_EQ(failures->size(), 1U);
  EXPECT_NE(failures->front().message.find("/nonexistent/hook"), std::string::npos);
}

TEST_F(HooksTest, TheEnvironmentIsTheHooksOwn) {
  oci::Hook hook = shell("echo $ONLY$HOME > environment");
  hook.env = {"ONLY=this"};
  ASSERT_TRUE(run_hooks(list({hook})));
  EXPECT_EQ(content("environment"), "this\n");
}

TEST_F(HooksTest, DestroyingTheRunnerKillsTheHook) {
  auto loop = std::move(*EventLoop::create());
  bool called = false;
  auto runner = HookRunner::start(*loop, list({shell("echo $$ > pid; exec sleep 30")}),
                                  [&](const std::vector<Error>&) { called = true; });
  for (int i = 0; i < 400 && content("pid").empty(); ++i) ASSERT_TRUE(loop->run_once(10));
  const pid_t pid = std::stoi(content("pid"));
  runner.reset();
  EXPECT_EQ(kill(pid, 0), -1);
  EXPECT_FALSE(called);
}

}  // namespace
}  // namespace kiln::runtime
