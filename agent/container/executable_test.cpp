// SPDX-License-Identifier: Apache-2.0
#include "agent/container/executable.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

namespace kiln::agent {
namespace {

using Strings = std::vector<std::string>;

class Executable : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string path = "/tmp/kiln-executable-XXXXXX";
    ASSERT_NE(mkdtemp(path.data()), nullptr);
    directory_ = path;
  }
  void TearDown() override { std::system(("rm -r " + directory_).c_str()); }

  std::string make_file(const std::string& name, mode_t mode) {
    std::string path = directory_ + "/" + name;
    std::ofstream(path) << "not a program";
    chmod(path.c_str(), mode);
    return path;
  }

  std::string directory_;
};

TEST_F(Executable, NameIsSearchedInPath) {
  const std::string path = make_file("tool", 0755);
  EXPECT_EQ(find_executable("tool", {"PATH=/nonexistent:" + directory_}).value(), path);
}

TEST_F(Executable, LastPathOfTheEnvironmentCounts) {
  make_file("tool", 0755);
  EXPECT_FALSE(find_executable("tool", {"PATH=" + directory_, "PATH=/nonexistent"}));
}

TEST_F(Executable, FileWithoutExecuteBitIsSkippedInPath) {
  make_file("tool", 0644);
  const auto found = find_executable("tool", {"PATH=" + directory_});
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().message, "exec: \"tool\": executable file not found in $PATH");
  EXPECT_EQ(found.error().kind, ErrorKind::kNotFound);
}

TEST_F(Executable, MissingPathFindsNothing) {
  const auto found = find_executable("sh", {"HOME=/"});
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().message, "exec: \"sh\": executable file not found in $PATH");
}

TEST_F(Executable, MissingFileIsSaidAsRuncDoes) {
  const auto found = find_executable("/nonexistent/x", {});
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().message,
            "exec: \"/nonexistent/x\": stat /nonexistent/x: no such file or directory");
  EXPECT_EQ(found.error().kind, ErrorKind::kNotFound);
}

TEST_F(Executable, FileWithoutExecuteBitIsPermissionDenied) {
  const std::string path = make_file("tool", 0644);
  const auto found = find_executable(path, {});
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().message, "exec: \"" + path + "\": permission denied");
  EXPECT_EQ(found.error().kind, ErrorKind::kPermissionDenied);
}

TEST_F(Executable, DirectoryIsRefused) {
  const auto found = find_executable(directory_, {});
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().message, "exec: \"" + directory_ + "\": is a directory");
  EXPECT_EQ(found.error().kind, ErrorKind::kPermissionDenied);
}

TEST_F(Executable, FileThatIsNoProgramFailsInExec) {
  const std::string path = make_file("garbage", 0755);
  const Error error = execute(path, {path}, {});
  EXPECT_EQ(error.message, "exec " + path + ": exec format error");
}

TEST(Environment, LastValueWins) {
  EXPECT_EQ(complete_environment({"A=1", "HOME=/h", "B=2", "A=3"}, "/x"),
            (Strings{"HOME=/h", "B=2", "A=3"}));
}

TEST(Environment, HomeIsAddedWhenMissingOrEmpty) {
  EXPECT_EQ(complete_environment({"A=1"}, "/root"), (Strings{"A=1", "HOME=/root"}));
  EXPECT_EQ(complete_environment({"HOME="}, "/root"), (Strings{"HOME=/root"}));
}

TEST(Environment, ValueOfANameThatIsAPrefixIsNotFound) {
  EXPECT_EQ(environment_value({"PATHS=/a"}, "PATH"), nullptr);
  EXPECT_STREQ(environment_value({"PATH=/a", "PATH="}, "PATH"), "");
}

constexpr char kPasswd[] =
    "root:x:0:0:root:/root:/bin/sh\n"
    "short:x:5\n"
    "\n"
    "user:x:1000:1000::/home/user:/bin/sh\n"
    "odd:x:10x:1::/odd:\n"
    "relative:x:7:7::home:/bin/sh\n"
    "last:x:8:8::/last";

TEST(HomeDirectory, IsThatOfTheUid) {
  EXPECT_EQ(home_directory(kPasswd, 0), "/root");
  EXPECT_EQ(home_directory(kPasswd, 1000), "/home/user");
  EXPECT_EQ(home_directory(kPasswd, 8), "/last");
}

TEST(HomeDirectory, IsTheRootForWhoIsNotListed) {
  EXPECT_EQ(home_directory(kPasswd, 5), "/");
  EXPECT_EQ(home_directory(kPasswd, 10), "/");
  EXPECT_EQ(home_directory(kPasswd, 7), "/");
  EXPECT_EQ(home_directory("", 0), "/");
}

}  // namespace
}  // namespace kiln::agent
