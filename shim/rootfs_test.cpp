// SPDX-License-Identifier: Apache-2.0
#include "shim/rootfs.h"

#include <gtest/gtest.h>
#include <linux/magic.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <functional>

#include "base/file.h"
#include "base/format.h"
#include "base/temporary_directory.h"

namespace kiln::shim {
namespace {

api::Mount mount_of(const std::string& type, const std::string& source,
                    const std::vector<std::string>& options = {}, const std::string& target = "") {
  api::Mount mount;
  mount.set_type(type);
  mount.set_source(source);
  mount.set_target(target);
  for (const std::string& option : options) mount.add_options(option);
  return mount;
}

TEST(Layers, LoseTheDirectoryThatTheyShare) {
  std::vector<std::string> options = {"upperdir=/s/9/fs", "lowerdir=/s/1/fs:/s/2/fs:/s/33/fs"};
  EXPECT_EQ(shorten_layers(options), "/s/");
  EXPECT_EQ(options[1], "lowerdir=1/fs:2/fs:33/fs");
  EXPECT_EQ(options[0], "upperdir=/s/9/fs");
}

TEST(Layers, ANameIsNotCutInTheMiddle) {
  std::vector<std::string> options = {"lowerdir=/s/10:/s/11"};
  EXPECT_EQ(shorten_layers(options), "/s/");
  EXPECT_EQ(options[0], "lowerdir=10:11");
}

TEST(Layers, OneMayBeWithinAnother) {
  std::vector<std::string> options = {"lowerdir=/s/a:/s/a/b"};
  EXPECT_EQ(shorten_layers(options), "/s/");
  EXPECT_EQ(options[0], "lowerdir=a:a/b");
}

TEST(Layers, StayWhereThereIsNothingToShorten) {
  for (const char* option : {"lowerdir=/s/1", "lowerdir=/a/1:/b/1", "lowerdir=", "lowerdir=a:b",
                             "lowerdir=/s/:/s/1", "workdir=/s/1:/s/2", "lowerdir=/s/a\\:b:/s/c"}) {
    std::vector<std::string> options = {option};
    EXPECT_EQ(shorten_layers(options), "") << option;
    EXPECT_EQ(options[0], option);
  }
}

class RootfsTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(make_directories(path("rootfs"), 0755)); }
  std::string path(const std::string& name) const { return directory_.path() + "/" + name; }

  // `check` in a process with mounts of its own.
  void with_mounts(const std::function<void()>& check) const {
    const std::string map = fmt::format("0 {} 1", geteuid());
    const pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      const bool able = unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 &&
                        write_file("/proc/self/uid_map", map) &&
                        mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
      if (able) check();
      _exit(!able ? 77 : testing::Test::HasFailure() ? 1 : 0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
      GTEST_SKIP() << "no user namespaces with mounts of their own here";
    EXPECT_EQ(status, 0);
  }
  static int64_t type_of(const std::string& place) {
    struct statfs info {};
    return statfs(place.c_str(), &info) == 0 ? info.f_type : -1;
  }

  TemporaryDirectory directory_ = *TemporaryDirectory::create(testing::TempDir(), "rootfs-");
};

TEST_F(RootfsTest, ADiskAloneGoesToTheMachine) {
  ASSERT_TRUE(write_file_atomic(path("disk"), "x", 0600));
  const auto disk = root_disk({mount_of("ext4", path("disk"), {"ro", "loop"})});
  ASSERT_TRUE(disk);
  EXPECT_EQ(disk->source, path("disk"));
  EXPECT_TRUE(disk->read_only);
  EXPECT_FALSE(root_disk({mount_of("erofs", path("disk"))})->read_only);
}

TEST_F(RootfsTest, WhatIsNotOneDiskIsMounted) {
  ASSERT_TRUE(write_file_atomic(path("disk"), "x", 0600));
  const api::Mount disk = mount_of("ext4", path("disk"));
  EXPECT_FALSE(root_disk({}));
  EXPECT_FALSE(root_disk({disk, disk}));
  EXPECT_FALSE(root_disk({mount_of("overlay", path("disk"))}));
  EXPECT_FALSE(root_disk({mount_of("ext4", path("missing"))}));
  EXPECT_FALSE(root_disk({mount_of("ext4", path("rootfs"))}));
  EXPECT_FALSE(root_disk({mount_of("ext4", path("disk"), {}, "inside")}));
}

TEST_F(RootfsTest, MountsAndUnmounts) {
  with_mounts([this] {
    ASSERT_TRUE(make_directories(path("source"), 0755));
    ASSERT_TRUE(write_file_atomic(path("source/file"), "x", 0644));
    const auto mounted =
        mount_rootfs({mount_of("bind", path("source"), {"rbind", "ro"})}, directory_.path());
    ASSERT_TRUE(mounted) << mounted.error().message;
    EXPECT_TRUE(read_file(path("rootfs/file")));
    EXPECT_NE(access(path("rootfs/file").c_str(), W_OK), 0);
    EXPECT_EQ(access(path("source/file").c_str(), W_OK), 0);
    EXPECT_TRUE(unmount_rootfs(directory_.path()));
    EXPECT_FALSE(read_file(path("rootfs/file")));
    EXPECT_TRUE(unmount_rootfs(directory_.path()));
  });
}

TEST_F(RootfsTest, MountsThatReferToOthersKeepThem) {
  with_mounts([this] {
    ASSERT_TRUE(make_directories(path("lower"), 0755));
    ASSERT_TRUE(make_directories(path("disk"), 0755));
    ASSERT_TRUE(write_file_atomic(path("lower/file"), "x", 0644));
    const auto mounted = mount_rootfs({mount_of("bind", path("disk"), {"rbind"}),
                                       mount_of("bind", path("lower"), {"rbind", "ro"}),
                                       mount_of("format/mkdir/overlay", "overlay",
                                                {"X-containerd.mkdir.path={{ mount 0 }}/made:0755",
                                                 "lowerdir={{ overlay 0 1 }}", "userxattr"})},
                                      directory_.path());
    ASSERT_TRUE(mounted) << mounted.error().message;
    EXPECT_TRUE(read_file(path("rootfs/file")));
    EXPECT_EQ(access(path("rootfs/made").c_str(), F_OK), 0);
    EXPECT_NE(access(path("kiln-layers").c_str(), F_OK), 0);
    EXPECT_TRUE(unmount_rootfs(directory_.path()));
    EXPECT_FALSE(read_file(path("rootfs/file")));
  });
}

TEST_F(RootfsTest, AFailureLeavesNothingMounted) {
  with_mounts([this] {
    const auto mounted =
        mount_rootfs({mount_of("tmpfs", "tmpfs"), mount_of("bind", path("missing"), {"rbind"})},
                     directory_.path());
    ASSERT_FALSE(mounted);
    EXPECT_NE(mounted.error().message.find("missing"), std::string::npos);
    EXPECT_NE(type_of(path("rootfs")), TMPFS_MAGIC);
  });
}

TEST_F(RootfsTest, ALinkOfTheImageLeadsNowhereElse) {
  with_mounts([this] {
    ASSERT_TRUE(make_directories(path("source" + path("outside")), 0755));
    ASSERT_TRUE(make_directories(path("outside"), 0755));
    ASSERT_EQ(symlink(path("outside").c_str(), path("source/link").c_str()), 0);
    const auto mounted = mount_rootfs(
        {mount_of("bind", path("source"), {"rbind"}), mount_of("tmpfs", "tmpfs", {}, "link")},
        directory_.path());
    ASSERT_TRUE(mounted) << mounted.error().message;
    EXPECT_NE(type_of(path("outside")), TMPFS_MAGIC);
    EXPECT_EQ(type_of(path("rootfs" + path("outside"))), TMPFS_MAGIC);
    EXPECT_TRUE(unmount_rootfs(directory_.path()));
  });
}

TEST_F(RootfsTest, TheThreadStaysWhereItWasForManyLayers) {
  with_mounts([this] {
    std::string lower = "lowerdir=";
    for (int i = 0; i < 60; ++i) {
      const std::string layer = path(fmt::format("layers/{}-{}", std::string(40, 'l'), i));
      ASSERT_TRUE(make_directories(layer, 0755));
      lower += (i == 0 ? "" : ":") + layer;
    }
    const std::string before = std::filesystem::current_path();
    const auto mounted =
        mount_rootfs({mount_of("overlay", "overlay", {lower, "userxattr"})}, directory_.path());
    EXPECT_TRUE(mounted) << mounted.error().message;
    EXPECT_EQ(std::filesystem::current_path().native(), before);
    EXPECT_TRUE(unmount_rootfs(directory_.path()));
  });
}

}  // namespace
}  // namespace kiln::shim
