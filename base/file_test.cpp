// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"

#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>

#include <gtest/gtest.h>

namespace kiln {
namespace {

class FileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "kiln-file-XXXXXX").native();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    root = name;
  }
  void TearDown() override { std::filesystem::remove_all(root); }
  std::string root;
};

TEST_F(FileTest, MissingFileNamesPathAndCause) {
  const auto result = read_file(root + "/nothing");
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().kind, ErrorKind::kNotFound);
  EXPECT_EQ(result.error().message, "open `" + root + "/nothing`: No such file or directory");
}

TEST_F(FileTest, AtomicWriteReplacesContentAndLeavesNoTemporary) {
  ASSERT_TRUE(write_file_atomic(root + "/a", "one", 0600));
  ASSERT_TRUE(write_file_atomic(root + "/a", "two", 0600));
  EXPECT_EQ(*read_file(root + "/a"), "two");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(root), {}), 1);
}

TEST_F(FileTest, FailedAtomicWriteLeavesNothing) {
  ASSERT_TRUE(make_directories(root + "/a/b", 0755));
  EXPECT_FALSE(write_file_atomic(root + "/a", "x", 0600));  // a directory is in the way
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(root), {}), 1);
}

TEST_F(FileTest, ReadBeyondTheLimitIsAnError) {
  ASSERT_TRUE(write_file_atomic(root + "/a", std::string(100, 'x'), 0600));
  EXPECT_EQ(read_file(root + "/a", 99).error().kind, ErrorKind::kOutOfRange);
  EXPECT_TRUE(read_file(root + "/a", 100));
}

TEST_F(FileTest, OpenBeneathDoesNotLeaveTheDirectory) {
  const UniqueFd directory = *open_file(root, O_PATH | O_DIRECTORY);
  ASSERT_EQ(symlink("/etc/passwd", (root + "/link").c_str()), 0);
  EXPECT_FALSE(open_beneath(directory.get(), "link", O_RDONLY, RESOLVE_BENEATH));
  EXPECT_FALSE(open_beneath(directory.get(), "../../etc/passwd", O_RDONLY, RESOLVE_BENEATH));
}

TEST_F(FileTest, MakeDirectoriesUnderAFileFails) {
  ASSERT_TRUE(write_file_atomic(root + "/a", "x", 0600));
  EXPECT_FALSE(make_directories(root + "/a/b/c", 0755));
}

}  // namespace
}  // namespace kiln
