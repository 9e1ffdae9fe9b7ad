// SPDX-License-Identifier: Apache-2.0
#include "agent/container/root_paths.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "base/file.h"

namespace kiln::agent {
namespace {

class RootPaths : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string path = "/tmp/kiln-root-XXXXXX";
    ASSERT_NE(mkdtemp(path.data()), nullptr);
    outside_ = path;
    mkdir(in("").c_str(), 0755);
    root_ = UniqueFd(open(in("").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    ASSERT_TRUE(root_);
  }
  void TearDown() override { std::system(("rm -r " + outside_).c_str()); }

  std::string in(const std::string& path) const { return outside_ + "/root" + path; }
  void link(const std::string& target, const std::string& name) const {
    ASSERT_EQ(symlink(target.c_str(), in(name).c_str()), 0);
  }
  bool is_directory(const std::string& path) const {
    struct stat status {};
    return lstat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
  }
  bool exists(const std::string& path) const { return access(path.c_str(), F_OK) == 0; }
  static ino_t inode(int fd) {
    struct stat status {};
    return fstat(fd, &status) == 0 ? status.st_ino : 0;
  }
  static ino_t inode(const std::string& path) {
    struct stat status {};
    return stat(path.c_str(), &status) == 0 ? status.st_ino : 0;
  }

  std::string outside_;
  UniqueFd root_;
};

TEST_F(RootPaths, MissingDirectoriesAreMade) {
  const auto made = make_directory_in_root(root_.get(), "/a/b/c");
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_TRUE(is_directory(in("/a/b/c")));
  EXPECT_EQ(inode(made->get()), inode(in("/a/b/c")));
}

TEST_F(RootPaths, DotDotStopsAtTheRoot) {
  ASSERT_TRUE(make_directory_in_root(root_.get(), "/../../x"));
  EXPECT_TRUE(is_directory(in("/x")));
  EXPECT_FALSE(exists(outside_ + "/x"));
}

TEST_F(RootPaths, AbsoluteLinkCountsFromTheRoot) {
  link(outside_, "/link");
  ASSERT_TRUE(make_directory_in_root(root_.get(), "/link/x"));
  EXPECT_TRUE(is_directory(in(outside_ + "/x")));
  EXPECT_FALSE(exists(outside_ + "/x"));
}

TEST_F(RootPaths, LinkWithDotsStaysInTheRoot) {
  link("../../../x", "/link");
  ASSERT_TRUE(make_file_in_root(root_.get(), "/link"));
  EXPECT_TRUE(exists(in("/x")));
  EXPECT_FALSE(exists(outside_ + "/x"));
}

TEST_F(RootPaths, DanglingLinkGetsItsTarget) {
  mkdir(in("/etc").c_str(), 0755);
  link("../run/resolve/conf", "/etc/resolv.conf");
  const auto made = make_file_in_root(root_.get(), "/etc/resolv.conf");
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_EQ(inode(made->get()), inode(in("/run/resolve/conf")));
}

TEST_F(RootPaths, LinkLoopIsAnError) {
  link("b", "/a");
  link("a", "/b");
  const auto made = make_directory_in_root(root_.get(), "/a/x");
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().sys_errno, ELOOP);
}

TEST_F(RootPaths, FileOnTheWayIsAnError) {
  std::ofstream(in("/file")) << "x";
  const auto made = make_directory_in_root(root_.get(), "/file/x");
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().sys_errno, ENOTDIR);
}

TEST_F(RootPaths, ExistingFileIsLeftAsItIs) {
  std::ofstream(in("/file")) << "content";
  ASSERT_TRUE(make_file_in_root(root_.get(), "/file"));
  EXPECT_EQ(read_file(in("/file")).value(), "content");
}

TEST_F(RootPaths, OpenDoesNotFollowLinksOut) {
  std::ofstream(outside_ + "/secret") << "secret";
  link(outside_ + "/secret", "/absolute");
  link("../secret", "/relative");
  EXPECT_FALSE(open_in_root(root_.get(), "/absolute", O_RDONLY));
  EXPECT_FALSE(open_in_root(root_.get(), "/relative", O_RDONLY));
  EXPECT_FALSE(open_in_root(root_.get(), "/../secret", O_RDONLY));
}

TEST_F(RootPaths, LinkOnTheWayIsRefusedWhereNoneMayBe) {
  mkdir(in("/real").c_str(), 0755);
  link("real", "/link");
  EXPECT_TRUE(open_without_links(root_.get(), "/real", O_PATH));
  const auto opened = open_without_links(root_.get(), "/link", O_PATH);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().sys_errno, ELOOP);
}

TEST(CleanPath, IsLexical) {
  EXPECT_EQ(clean_path("/a//b/./c/../d/"), "/a/b/d");
  EXPECT_EQ(clean_path("/../.."), "/");
  EXPECT_EQ(clean_path(""), "/");
  EXPECT_EQ(clean_path("a"), "/a");
  EXPECT_EQ(clean_path("/..a/b.."), "/..a/b..");
}

}  // namespace
}  // namespace kiln::agent
