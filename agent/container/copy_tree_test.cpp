// SPDX-License-Identifier: Apache-2.0
#include "agent/container/copy_tree.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "base/file.h"

namespace kiln::agent {
namespace {

class CopyTree : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string path = "/tmp/kiln-copy-XXXXXX";
    ASSERT_NE(mkdtemp(path.data()), nullptr);
    base_ = path;
    ASSERT_EQ(mkdir(from("").c_str(), 0755), 0);
    ASSERT_EQ(mkdir(to("").c_str(), 0755), 0);
  }
  void TearDown() override { std::system(("rm -r " + base_).c_str()); }
  std::string from(const std::string& path) const { return base_ + "/from" + path; }
  std::string to(const std::string& path) const { return base_ + "/to" + path; }
  Result<void> copy() const {
    const UniqueFd source(open(from("").c_str(), O_PATH | O_CLOEXEC));
    const UniqueFd target(open(to("").c_str(), O_PATH | O_CLOEXEC));
    return copy_tree(source.get(), target.get());
  }
  static struct stat status(const std::string& path) {
    struct stat out {};
    lstat(path.c_str(), &out);
    return out;
  }

  std::string base_;
};

TEST_F(CopyTree, ContentModeAndTimesArriveAtEveryDepth) {
  ASSERT_TRUE(make_directories(from("/a/b"), 0755));
  std::ofstream(from("/a/b/f")) << std::string(100'000, 'x');
  chmod(from("/a/b/f").c_str(), 04751);
  chmod(from("/a").c_str(), 01701);
  const timespec times[] = {{1000, 5}, {2000, 7}};
  utimensat(AT_FDCWD, from("/a/b/f").c_str(), times, 0);
  const auto copied = copy();
  ASSERT_TRUE(copied) << copied.error().message;
  EXPECT_EQ(read_file(to("/a/b/f")).value(), std::string(100'000, 'x'));
  EXPECT_EQ(status(to("/a/b/f")).st_mode & 07777, 04751U);
  EXPECT_EQ(status(to("/a")).st_mode & 07777, 01701U);
  EXPECT_EQ(status(to("/a/b/f")).st_mtim.tv_sec, 2000);
  EXPECT_EQ(status(to("/a/b/f")).st_mtim.tv_nsec, 7);
}

TEST_F(CopyTree, LinksAreCopiedAsLinks) {
  ASSERT_EQ(symlink("/etc/passwd", from("/link").c_str()), 0);
  ASSERT_EQ(symlink("nowhere", from("/dangling").c_str()), 0);
  ASSERT_TRUE(copy());
  EXPECT_TRUE(S_ISLNK(status(to("/link")).st_mode));
  EXPECT_EQ(std::string("/etc/passwd").size(), static_cast<size_t>(status(to("/link")).st_size));
  EXPECT_TRUE(S_ISLNK(status(to("/dangling")).st_mode));
}

TEST_F(CopyTree, FifoIsNotRead) {
  ASSERT_EQ(mkfifo(from("/fifo").c_str(), 0640), 0);
  ASSERT_TRUE(copy());
  EXPECT_TRUE(S_ISFIFO(status(to("/fifo")).st_mode));
  EXPECT_EQ(status(to("/fifo")).st_mode & 07777, 0640U);
}

TEST_F(CopyTree, ExistingTargetIsAnErrorThatNamesIt) {
  std::ofstream(from("/f")) << "x";
  std::ofstream(to("/f")) << "y";
  const auto copied = copy();
  ASSERT_FALSE(copied);
  EXPECT_NE(copied.error().message.find("`f`"), std::string::npos);
}

}  // namespace
}  // namespace kiln::agent
