// SPDX-License-Identifier: Apache-2.0
#include <sys/file.h>
#include <sys/xattr.h>

#include "vmm/confine/capabilities.h"
#include "vmm/virtio/fs/fuse_client.h"

namespace kiln::vmm {
namespace {

class FuseFiles : public FuseClientTest {
 protected:
  // A new file's node and handle.
  std::pair<uint64_t, uint64_t> make(const std::string& name, int flags = O_RDWR) {
    const Answer answer = create(rw_, name, flags);
    EXPECT_EQ(answer.error, 0);
    return {answer.as<fuse_entry_out>().nodeid,
            answer.as<fuse_open_out>(sizeof(fuse_entry_out)).fh};
  }
  Answer lock(uint32_t opcode, uint64_t node, uint64_t handle, uint64_t owner, uint32_t type,
              uint32_t flags = 0) {
    fuse_lk_in wanted{};
    wanted.fh = handle;
    wanted.owner = owner;
    wanted.lk.end = INT64_MAX;
    wanted.lk.type = type;
    wanted.lk_flags = flags;
    return ask(opcode, node, wanted);
  }
};

TEST_F(FuseFiles, ReadsBackWhatWasWritten) {
  const auto [node, handle] = make("file");
  EXPECT_EQ(write(node, handle, 0, "hello"), 5);
  EXPECT_EQ(write(node, handle, 8, "there"), 5);
  EXPECT_EQ(read(node, handle, 0, 100), std::string("hello\0\0\0there", 13));
  EXPECT_EQ(content("rw/file"), std::string("hello\0\0\0there", 13));
  EXPECT_EQ(read(node, handle, 100, 10), "");
}

TEST_F(FuseFiles, AppendsWhereTheFileEnds) {
  put_file("rw/file", "one ");
  const uint64_t node = lookup(rw_, "file");
  const uint64_t handle = open_ok(node, O_WRONLY | O_APPEND);
  put_file("rw/file", "other ");
  EXPECT_EQ(write(node, handle, 0, "two"), 3);
  EXPECT_EQ(content("rw/file"), "other two");
}

TEST_F(FuseFiles, TruncatesOnOpen) {
  put_file("rw/file", "long content");
  open_ok(lookup(rw_, "file"), O_WRONLY | O_TRUNC);
  EXPECT_EQ(content("rw/file"), "");
}

TEST_F(FuseFiles, RefusesHandlesOfOtherFiles) {
  const auto [node, handle] = make("file");
  const auto [other, other_handle] = make("other");
  EXPECT_EQ(write(other, handle, 0, "x"), -EBADF);
  EXPECT_EQ(release(other, handle), -EBADF);
  EXPECT_EQ(write(node, 4711, 0, "x"), -EBADF);
  EXPECT_EQ(release(node, handle), 0);
  EXPECT_EQ(write(node, handle, 0, "x"), -EBADF);
  EXPECT_EQ(release(other, other_handle), 0);
}

TEST_F(FuseFiles, DoesNotWriteThroughAHandleForReading) {
  put_file("rw/file", "x");
  const uint64_t node = lookup(rw_, "file");
  EXPECT_EQ(write(node, open_ok(node, O_RDONLY), 0, "y"), -EBADF);
}

TEST_F(FuseFiles, RefusesOffsetsBeyondAnyFile) {
  const auto [node, handle] = make("file");
  EXPECT_EQ(write(node, handle, UINT64_MAX, "x"), -EINVAL);
  read(node, handle, UINT64_MAX, 1);
  EXPECT_EQ(last_error_, -EINVAL);
}

TEST_F(FuseFiles, BoundsOpenHandles) {
  start({64, 3});
  put_file("rw/file", "x");
  const uint64_t node = lookup(rw_, "file");
  for (int i = 0; i < 3; ++i) open_ok(node, O_RDONLY);
  EXPECT_EQ(open(node, O_RDONLY).error, -ENFILE);
  EXPECT_EQ(create(rw_, "new").error, -ENFILE);
}

TEST_F(FuseFiles, CreatesAnewOrOpensWhatIsThere) {
  put_file("rw/there", "content");
  EXPECT_EQ(create(rw_, "there", O_RDWR | O_EXCL).error, -EEXIST);
  const auto [node, handle] = make("there");
  EXPECT_EQ(read(node, handle, 0, 100), "content");
}

TEST_F(FuseFiles, NeverOpensDevicesPipesOrSockets) {
  ASSERT_EQ(mkfifo((root_ / "rw/pipe").c_str(), 0644), 0);
  EXPECT_EQ(open(lookup(rw_, "pipe"), O_RDONLY).error, -ENXIO);
  EXPECT_EQ(create(rw_, "pipe").error, -ENXIO);
  ASSERT_EQ(symlink("/dev/null", (root_ / "rw/null").c_str()), 0);
  EXPECT_EQ(create(rw_, "null").error, -ENXIO);
}

TEST_F(FuseFiles, BelongsToTheCaller) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  ASSERT_TRUE(keep_capabilities_across_setuid());
  caller_uid_ = 1234;
  caller_gid_ = 4321;
  make("file");
  EXPECT_EQ(ask(FUSE_MKDIR, rw_, fuse_mkdir_in{0755, 0}, z("dir")).error, 0);
  for (const char* name : {"rw/file", "rw/dir"}) {
    EXPECT_EQ(host_stat(name).st_uid, 1234U);
    EXPECT_EQ(host_stat(name).st_gid, 4321U);
  }
}

TEST_F(FuseFiles, TakesSetuidBitsAwayWhenTold) {
  put_file("rw/file", "x");
  chmod((root_ / "rw/file").c_str(), 04755);
  const uint64_t node = lookup(rw_, "file");
  const uint64_t handle = open_ok(node, O_WRONLY);
  EXPECT_EQ(write(node, handle, 0, "y", FUSE_WRITE_KILL_SUIDGID), 1);
  EXPECT_EQ(host_stat("rw/file").st_mode & 07777, 0755U);
}

TEST_F(FuseFiles, KeepsTheCacheOfAnUnchangedFile) {
  put_file("rw/file", "x");
  const uint64_t node = lookup(rw_, "file");
  EXPECT_EQ(open(node, O_RDONLY).as<fuse_open_out>().open_flags, 0U);
  EXPECT_EQ(open(node, O_RDONLY).as<fuse_open_out>().open_flags,
            static_cast<uint32_t>(FOPEN_KEEP_CACHE));
  put_file("rw/file", "longer");
  EXPECT_EQ(open(node, O_RDONLY).as<fuse_open_out>().open_flags, 0U);
}

TEST_F(FuseFiles, SyncsFallocatesAndSeeks) {
  const auto [node, handle] = make("file");
  write(node, handle, 1 << 20, "end");
  fuse_fsync_in sync{};
  sync.fh = handle;
  EXPECT_EQ(ask(FUSE_FSYNC, node, sync).error, 0);
  fuse_lseek_in seek{};
  seek.fh = handle;
  seek.whence = SEEK_HOLE;
  EXPECT_EQ(ask(FUSE_LSEEK, node, seek).as<fuse_lseek_out>().offset, 0U);
  seek.whence = SEEK_SET;
  EXPECT_EQ(ask(FUSE_LSEEK, node, seek).error, -EINVAL);
  fuse_fallocate_in allocate{};
  allocate.fh = handle;
  allocate.length = 2 << 20;
  EXPECT_EQ(ask(FUSE_FALLOCATE, node, allocate).error, 0);
  EXPECT_EQ(host_stat("rw/file").st_size, 2 << 20);
}

TEST_F(FuseFiles, CopiesRanges) {
  const auto [from, from_handle] = make("from");
  const auto [to, to_handle] = make("to");
  write(from, from_handle, 0, "0123456789");
  fuse_copy_file_range_in copy{};
  copy.fh_in = from_handle;
  copy.off_in = 2;
  copy.nodeid_out = to;
  copy.fh_out = to_handle;
  copy.len = 5;
  EXPECT_EQ(ask(FUSE_COPY_FILE_RANGE, from, copy).as<fuse_write_out>().size, 5U);
  EXPECT_EQ(content("rw/to"), "23456");
}

TEST_F(FuseFiles, RecordLocksConflictBetweenOwnersAlone) {
  const auto [node, handle] = make("file");
  EXPECT_EQ(lock(FUSE_SETLK, node, handle, 1, F_WRLCK).error, 0);
  EXPECT_EQ(lock(FUSE_SETLK, node, handle, 1, F_WRLCK).error, 0);
  EXPECT_EQ(lock(FUSE_SETLK, node, handle, 2, F_RDLCK).error, -EAGAIN);
  EXPECT_EQ(lock(FUSE_GETLK, node, handle, 2, F_WRLCK).as<fuse_lk_out>().lk.type,
            static_cast<uint32_t>(F_WRLCK));
  EXPECT_EQ(lock(FUSE_SETLKW, node, handle, 2, F_WRLCK).kind, FuseReply::Kind::kLater);
  fuse_flush_in flush{};
  flush.fh = handle;
  flush.lock_owner = 1;
  EXPECT_EQ(ask(FUSE_FLUSH, node, flush).error, 0);
  EXPECT_EQ(lock(FUSE_SETLKW, node, handle, 2, F_WRLCK).kind, FuseReply::Kind::kAnswer);
}

TEST_F(FuseFiles, RecordLocksAreTheHostsToo) {
  const auto [node, handle] = make("file");
  const UniqueFd host(::open((root_ / "rw/file").c_str(), O_RDWR));
  struct flock wanted {};
  wanted.l_type = F_WRLCK;
  ASSERT_EQ(fcntl(host.get(), F_OFD_SETLK, &wanted), 0);
  EXPECT_EQ(lock(FUSE_SETLK, node, handle, 1, F_RDLCK).error, -EAGAIN);
}

TEST_F(FuseFiles, WholeFileLocksBelongToTheHandle) {
  const auto [node, handle] = make("file");
  const uint64_t other = open_ok(node, O_RDWR);
  EXPECT_EQ(lock(FUSE_SETLK, node, handle, 1, F_WRLCK, FUSE_LK_FLOCK).error, 0);
  EXPECT_EQ(lock(FUSE_SETLK, node, other, 2, F_RDLCK, FUSE_LK_FLOCK).error, -EAGAIN);
  EXPECT_EQ(lock(FUSE_SETLKW, node, other, 2, F_RDLCK, FUSE_LK_FLOCK).kind,
            FuseReply::Kind::kLater);
  EXPECT_EQ(release(node, handle), 0);
  EXPECT_EQ(lock(FUSE_SETLK, node, other, 2, F_RDLCK, FUSE_LK_FLOCK).error, 0);
}

TEST_F(FuseFiles, ReadOnlyShareRefusesEveryChange) {
  put_file("ro/file", "content");
  const uint64_t node = lookup(ro_, "file");
  fuse_setattr_in attributes{};
  attributes.valid = FATTR_MODE;
  EXPECT_EQ(set(node, attributes).error, -EROFS);
  EXPECT_EQ(open(node, O_RDWR).error, -EROFS);
  EXPECT_EQ(open(node, O_RDONLY | O_TRUNC).error, -EROFS);
  EXPECT_EQ(create(ro_, "new").error, -EROFS);
  EXPECT_EQ(ask(FUSE_MKDIR, ro_, fuse_mkdir_in{0755, 0}, z("d")).error, -EROFS);
  EXPECT_EQ(ask(FUSE_MKNOD, ro_, fuse_mknod_in{S_IFIFO | 0644, 0, 0, 0}, z("p")).error, -EROFS);
  EXPECT_EQ(ask_bytes(FUSE_SYMLINK, ro_, nullptr, 0, z("s") + z("target")).error, -EROFS);
  EXPECT_EQ(ask(FUSE_LINK, ro_, fuse_link_in{node}, z("l")).error, -EROFS);
  EXPECT_EQ(ask_name(FUSE_UNLINK, ro_, "file").error, -EROFS);
  EXPECT_EQ(ask_name(FUSE_RMDIR, ro_, "file").error, -EROFS);
  EXPECT_EQ(ask(FUSE_RENAME, ro_, fuse_rename_in{ro_}, z("file") + z("f")).error, -EROFS);
  EXPECT_EQ(ask(FUSE_RENAME, rw_, fuse_rename_in{ro_}, z("file") + z("f")).error, -EROFS);
  const uint32_t xattr[2] = {1, 0};
  EXPECT_EQ(ask_bytes(FUSE_SETXATTR, node, xattr, 8, z("user.a") + "v").error, -EROFS);
  EXPECT_EQ(ask_name(FUSE_REMOVEXATTR, node, "user.a").error, -EROFS);
  const uint64_t handle = open_ok(node, O_RDONLY);
  EXPECT_EQ(write(node, handle, 0, "x"), -EROFS);
  fuse_fallocate_in allocate{};
  allocate.fh = handle;
  allocate.length = 1;
  EXPECT_EQ(ask(FUSE_FALLOCATE, node, allocate).error, -EROFS);
  EXPECT_EQ(read(node, handle, 0, 100), "content");
  EXPECT_EQ(content("ro/file"), "content");
}

TEST_F(FuseFiles, ExtendedAttributesRoundTrip) {
  put_file("rw/file", "x");
  if (::setxattr((root_ / "rw/file").c_str(), "user.probe", "1", 1, 0) != 0)
    GTEST_SKIP() << "the temporary directory has no user.* attributes";
  const uint64_t node = lookup(rw_, "file");
  const uint32_t fixed[2] = {5, 0};
  EXPECT_EQ(ask_bytes(FUSE_SETXATTR, node, fixed, 8, z("user.a") + "value").error, 0);
  EXPECT_EQ(ask(FUSE_GETXATTR, node, fuse_getxattr_in{64, 0}, z("user.a")).text(), "value");
  EXPECT_EQ(
      ask(FUSE_GETXATTR, node, fuse_getxattr_in{0, 0}, z("user.a")).as<fuse_getxattr_out>().size,
      5U);
  EXPECT_EQ(ask(FUSE_GETXATTR, node, fuse_getxattr_in{2, 0}, z("user.a")).error, -ERANGE);
  EXPECT_NE(ask(FUSE_LISTXATTR, node, fuse_getxattr_in{256, 0}).text().find(z("user.a")),
            std::string::npos);
  EXPECT_EQ(ask_name(FUSE_REMOVEXATTR, node, "user.a").error, 0);
  EXPECT_EQ(ask(FUSE_GETXATTR, node, fuse_getxattr_in{64, 0}, z("user.a")).error, -ENODATA);
}

TEST_F(FuseFiles, AttributeValuesLongerThanTheRequestAreRefused) {
  put_file("rw/file", "x");
  const uint32_t fixed[2] = {5000, 0};
  EXPECT_EQ(ask_bytes(FUSE_SETXATTR, lookup(rw_, "file"), fixed, 8, z("user.a") + "v").error,
            -EINVAL);
}

TEST_F(FuseFiles, AccessControlListsAreNotServed) {
  put_file("rw/file", "x");
  EXPECT_EQ(
      ask(FUSE_GETXATTR, lookup(rw_, "file"), fuse_getxattr_in{64, 0}, z("system.posix_acl_access"))
          .error,
      -EOPNOTSUPP);
}

}  // namespace
}  // namespace kiln::vmm
