// SPDX-License-Identifier: Apache-2.0
// A share that consists of several mounts, of which the host's kernel keeps the first read-only.
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#include <fstream>

#include "vmm/virtio/fs/fuse_client.h"

namespace kiln::vmm {
namespace {

class FuseMounts : public FuseClientTest {
 protected:
  void SetUp() override {
    FuseClientTest::SetUp();
    if (unshare(CLONE_NEWNS) != 0) GTEST_SKIP() << "needs the privilege to mount";
    ASSERT_EQ(::mount("", "/", nullptr, MS_PRIVATE | MS_REC, nullptr), 0);
    std::filesystem::create_directory(root_ / "rw/nested");
    std::ofstream(root_ / "rw/file") << "content";
    nested_ = root_ / "rw/nested";
    ASSERT_EQ(::mount("tmpfs", nested_.c_str(), "tmpfs", 0, nullptr), 0);
    std::ofstream(root_ / "rw/nested/file") << "content";
    share_copy();
    top_ = lookup(FUSE_ROOT_ID, "tree");
    file_ = lookup(top_, "file");
    below_ = lookup(top_, "nested");
    inner_ = lookup(below_, "file");
    ASSERT_NE(file_, 0U);
    ASSERT_NE(inner_, 0U);
  }
  void TearDown() override {
    umount2(nested_.c_str(), MNT_DETACH);
    FuseClientTest::TearDown();
  }
  // As runtime/shares.h makes it.
  void share_copy() {
    UniqueFd copy(static_cast<int>(syscall(SYS_open_tree, AT_FDCWD, (root_ / "rw").c_str(),
                                           OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE)));
    mount_attr wanted{};
    wanted.attr_set = MOUNT_ATTR_RDONLY;
    ASSERT_EQ(syscall(SYS_mount_setattr, copy.get(), "", AT_EMPTY_PATH, &wanted, sizeof wanted), 0);
    ASSERT_TRUE(session_->add_entry("tree", std::move(copy), {}));
  }
  int set(uint64_t node, uint32_t valid) {
    fuse_setattr_in attributes{};
    attributes.valid = valid;
    attributes.mode = 0600;
    return ask(FUSE_SETATTR, node, attributes).error;
  }
  int rename(uint64_t from, uint64_t to) {
    return ask(FUSE_RENAME, from, fuse_rename_in{to}, z("file") + z("moved")).error;
  }
  int access(uint64_t node, uint32_t mask) {
    return ask(FUSE_ACCESS, node, fuse_access_in{mask, 0}).error;
  }
  int lock(uint64_t node, uint64_t handle, uint32_t type) {
    fuse_lk_in wanted{};
    wanted.fh = handle;
    wanted.owner = 1;
    wanted.lk.end = INT64_MAX;
    wanted.lk.type = type;
    return ask(FUSE_SETLK, node, wanted).error;
  }

  std::string nested_;
  uint64_t top_ = 0;
  uint64_t file_ = 0;
  uint64_t below_ = 0;
  uint64_t inner_ = 0;
};

TEST_F(FuseMounts, NoRequestChangesTheReadOnlyTop) {
  for (const uint32_t valid : {FATTR_MODE, FATTR_UID, FATTR_SIZE, FATTR_MTIME, FATTR_ATIME_NOW})
    EXPECT_EQ(set(file_, valid), -EROFS) << valid;
  EXPECT_EQ(set(top_, FATTR_MODE), -EROFS);
  EXPECT_EQ(open(file_, O_RDWR).error, -EROFS);
  EXPECT_EQ(open(file_, O_RDONLY | O_TRUNC).error, -EROFS);
  EXPECT_EQ(create(top_, "new").error, -EROFS);
  EXPECT_EQ(ask(FUSE_MKDIR, top_, fuse_mkdir_in{0755, 0}, z("d")).error, -EROFS);
  EXPECT_EQ(ask(FUSE_MKNOD, top_, fuse_mknod_in{S_IFIFO | 0644, 0, 0, 0}, z("p")).error, -EROFS);
  EXPECT_EQ(ask_bytes(FUSE_SYMLINK, top_, nullptr, 0, z("s") + z("target")).error, -EROFS);
  EXPECT_EQ(ask(FUSE_LINK, top_, fuse_link_in{file_}, z("l")).error, -EROFS);
  EXPECT_EQ(ask_name(FUSE_UNLINK, top_, "file").error, -EROFS);
  EXPECT_NE(ask_name(FUSE_RMDIR, top_, "nested").error, 0);
  EXPECT_EQ(rename(top_, top_), -EROFS);
  const uint32_t xattr[2] = {1, 0};
  EXPECT_EQ(ask_bytes(FUSE_SETXATTR, file_, xattr, 8, z("user.a") + "v").error, -EROFS);
  EXPECT_EQ(ask_name(FUSE_REMOVEXATTR, file_, "user.a").error, -EROFS);
  const uint64_t handle = open_ok(file_, O_RDONLY);
  fuse_setattr_in truncate{};
  truncate.valid = FATTR_SIZE | FATTR_FH;
  truncate.fh = handle;
  EXPECT_NE(ask(FUSE_SETATTR, file_, truncate).error, 0);
  fuse_fallocate_in allocate{};
  allocate.fh = handle;
  allocate.length = 1;
  EXPECT_NE(ask(FUSE_FALLOCATE, file_, allocate).error, 0);
  EXPECT_EQ(content("rw/file"), "content");
}

TEST_F(FuseMounts, NothingGoesBetweenTheTopAndWhatIsBelow) {
  EXPECT_EQ(rename(top_, below_), -EXDEV);
  EXPECT_EQ(rename(below_, top_), -EXDEV);
  EXPECT_EQ(ask(FUSE_LINK, top_, fuse_link_in{inner_}, z("l")).error, -EROFS);
  EXPECT_EQ(ask(FUSE_LINK, below_, fuse_link_in{file_}, z("l")).error, -EXDEV);
  EXPECT_EQ(content("rw/file"), "content");
}

TEST_F(FuseMounts, WhatIsBelowIsWritable) {
  EXPECT_EQ(set(inner_, FATTR_MODE), 0);
  EXPECT_EQ(create(below_, "new").error, 0);
  EXPECT_EQ(rename(below_, below_), 0);
  EXPECT_TRUE(std::filesystem::exists(root_ / "rw/nested/moved"));
}

TEST_F(FuseMounts, AccessKnowsWhichMountAFileIsOn) {
  EXPECT_EQ(access(file_, W_OK), -EROFS);
  EXPECT_EQ(access(file_, R_OK), 0);
  EXPECT_EQ(access(inner_, W_OK), 0);
}

TEST_F(FuseMounts, FilesOfTheReadOnlyTopCanBeLockedForReading) {
  const uint64_t handle = open_ok(file_, O_RDONLY);
  EXPECT_EQ(lock(file_, handle, F_RDLCK), 0);
  EXPECT_NE(lock(file_, handle, F_WRLCK), 0);
}

}  // namespace
}  // namespace kiln::vmm
