// SPDX-License-Identifier: Apache-2.0
// On plain directories; tests/integration/test_host_cgroup.py has real ones.
#include "runtime/cgroup/host_cgroup.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "base/temporary_directory.h"

namespace kiln::runtime {
namespace {

class HostCgroupTest : public testing::Test {
 protected:
  std::string put(const std::string& name, const std::string& text) {
    const std::string path = directory_.path() + "/" + name;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path) << text;
    return path;
  }
  HostCgroup at(const std::string& controller, const std::string& name) {
    return {controller.empty(), {{controller, directory_.path() + "/" + name}}, ""};
  }
  TemporaryDirectory directory_ = std::move(*TemporaryDirectory::create("/tmp", "kiln-cgroup-"));
};

TEST_F(HostCgroupTest, OneThatDoesNotExistIsFree) {
  EXPECT_TRUE(check_cgroup_is_free(at("memory", "none")));
}

TEST_F(HostCgroupTest, ProcessesInItOrBelowAreCounted) {
  put("c/cgroup.procs", "11\n12\n");
  put("c/sub/cgroup.procs", "13\n");
  const auto free = check_cgroup_is_free(at("memory", "c"));
  ASSERT_FALSE(free);
  EXPECT_EQ(free.error().message, "container's cgroup is not empty: 3 process(es) found");
}

TEST_F(HostCgroupTest, AFrozenOneIsRefused) {
  put("c/cgroup.procs", "");
  put("c/cgroup.freeze", "1\n");
  EXPECT_EQ(check_cgroup_is_free(at("", "c")).error().message,
            "container's cgroup unexpectedly frozen");
}

TEST_F(HostCgroupTest, EveryLevelIsMade) {
  HostCgroup cgroup = at("memory", "a/b/c");
  ASSERT_TRUE(make_cgroup(cgroup, false));
  EXPECT_TRUE(std::filesystem::is_directory(directory_.path() + "/a/b/c"));
}

TEST_F(HostCgroupTest, ControllersAreHandedOnFromTheTop) {
  for (const char* level : {"", "a/", "a/b/"}) {
    put(std::string(level) + "cgroup.controllers", "cpu memory\n");
    put(std::string(level) + "cgroup.subtree_control", "");
  }
  HostCgroup cgroup = at("", "a/b/c");
  ASSERT_TRUE(make_cgroup(cgroup, false));
  // Of a plain file each write begins at its start.
  for (const char* level : {"", "a/", "a/b/"})
    EXPECT_EQ(*read_file(directory_.path() + "/" + level + "cgroup.subtree_control"), "+memory");
  EXPECT_TRUE(std::filesystem::is_directory(directory_.path() + "/a/b/c"));
}

TEST_F(HostCgroupTest, AnEmptyCpusetTakesItsParents) {
  put("cpuset.cpus", "0-3\n");
  put("cpuset.mems", "0\n");
  put("a/cpuset.cpus", "\n");
  put("a/cpuset.mems", "\n");
  const std::string cpus = put("a/b/cpuset.cpus", "\n");
  const std::string mems = put("a/b/cpuset.mems", "1\n");
  HostCgroup cgroup = at("cpuset", "a/b");
  const auto made = make_cgroup(cgroup, false);
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_EQ(*read_file(cpus), "0-3\n");
  EXPECT_EQ(*read_file(mems), "1\n");
}

TEST_F(HostCgroupTest, ALimitThatCannotBeWrittenNamesTheFile) {
  const auto written = write_limits(at("memory", "c"), {{"memory", "memory.limit", "5", "", ""}});
  ASSERT_FALSE(written);
  EXPECT_NE(written.error().message.find("failed to write \"5\": "), std::string::npos);
  EXPECT_NE(written.error().message.find("c/memory.limit"), std::string::npos);
}

TEST_F(HostCgroupTest, TheOtherFileIsTakenWhereTheFirstIsAbsent) {
  const std::string other = put("c/io.weight", "");
  ASSERT_TRUE(write_limits(at("", "c"), {{"io", "io.bfq.weight", "5", "io.weight", "default 7"}}));
  EXPECT_EQ(*read_file(other), "default 7");
}

TEST_F(HostCgroupTest, ALimitThatMayBeAbsentIsNoError) {
  EXPECT_TRUE(write_limits(at("", "c"), {{"memory", "memory.swap.max", "0", "", "", true}}));
}

TEST_F(HostCgroupTest, ALimitOfAControllerThatIsNotThereIsRefused) {
  const auto written = write_limits(at("pids", "c"), {{"memory", "memory.limit", "5", "", ""}});
  EXPECT_EQ(written.error().message,
            "cannot set memory limit: container could not join or create cgroup");
}

TEST_F(HostCgroupTest, RemovingTakesWhatIsBelowAndForgivesWhatIsGone) {
  std::filesystem::create_directories(directory_.path() + "/c");
  EXPECT_TRUE(remove_cgroup(at("memory", "c")));
  EXPECT_FALSE(std::filesystem::exists(directory_.path() + "/c"));
  EXPECT_TRUE(remove_cgroup(at("memory", "c")));
}

}  // namespace
}  // namespace kiln::runtime
