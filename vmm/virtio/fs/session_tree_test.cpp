// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/fs/fuse_client.h"

namespace kiln::vmm {
namespace {

class FuseTree : public FuseClientTest {};

TEST_F(FuseTree, RefusesEverythingBeforeTheGreeting) {
  session_ = std::move(*FuseSession::create({}));
  EXPECT_EQ(ask(FUSE_GETATTR, FUSE_ROOT_ID, fuse_getattr_in{}).error, -EIO);
  EXPECT_EQ(greet().error, 0);
  EXPECT_EQ(ask(FUSE_GETATTR, FUSE_ROOT_ID, fuse_getattr_in{}).error, 0);
}

TEST_F(FuseTree, AgreesOnLargeTransfersAndNoWriteback) {
  const auto answer = greet().as<fuse_init_out>();
  EXPECT_EQ(answer.major, static_cast<uint32_t>(FUSE_KERNEL_VERSION));
  EXPECT_EQ(answer.max_write, 1U << 20);
  EXPECT_EQ(answer.max_pages, 256U);
  EXPECT_EQ(answer.flags & FUSE_WRITEBACK_CACHE, 0U);
  EXPECT_NE(answer.flags & FUSE_DO_READDIRPLUS, 0U);
}

TEST_F(FuseTree, AnswersANewerMajorWithItsOwn) {
  fuse_init_in init{};
  init.major = FUSE_KERNEL_VERSION + 1;
  const Answer answer = ask(FUSE_INIT, 0, init);
  EXPECT_EQ(answer.error, 0);
  EXPECT_EQ(answer.as<fuse_init_out>().major, static_cast<uint32_t>(FUSE_KERNEL_VERSION));
}

TEST_F(FuseTree, RefusesAnOlderProtocol) {
  fuse_init_in init{};
  init.major = FUSE_KERNEL_VERSION;
  init.minor = 20;
  EXPECT_EQ(ask(FUSE_INIT, 0, init).error, -EPROTO);
}

TEST_F(FuseTree, UnknownRequestIsNotImplemented) {
  EXPECT_EQ(ask_bytes(FUSE_TMPFILE, rw_, nullptr, 0).error, -ENOSYS);
  EXPECT_EQ(ask_bytes(FUSE_IOCTL, rw_, nullptr, 0).error, -ENOSYS);
  EXPECT_EQ(ask_bytes(4242, rw_, nullptr, 0).error, -ENOSYS);
}

TEST_F(FuseTree, RootHoldsTheSharesAlone) {
  EXPECT_NE(lookup(FUSE_ROOT_ID, "rw"), 0U);
  EXPECT_EQ(ask_name(FUSE_LOOKUP, FUSE_ROOT_ID, "etc").error, -ENOENT);
  EXPECT_EQ(ask_name(FUSE_UNLINK, FUSE_ROOT_ID, "rw").error, -EROFS);
  EXPECT_EQ(ask(FUSE_MKDIR, FUSE_ROOT_ID, fuse_mkdir_in{0755, 0}, z("new")).error, -EROFS);
}

TEST_F(FuseTree, RefusesNamesThatAreNoNames) {
  put_file("rw/file", "x");
  for (const std::string& name : {std::string(""), std::string("."), std::string(".."),
                                  std::string("a/b"), std::string("/etc")})
    EXPECT_EQ(ask_name(FUSE_LOOKUP, rw_, name).error, -EINVAL) << name;
  EXPECT_EQ(ask_name(FUSE_LOOKUP, rw_, std::string(256, 'n')).error, -ENAMETOOLONG);
  // No NUL at all.
  EXPECT_EQ(ask_bytes(FUSE_LOOKUP, rw_, "file", 4).error, -EINVAL);
}

TEST_F(FuseTree, RemembersAbsenceForAWhile) {
  const Answer answer = ask_name(FUSE_LOOKUP, rw_, "nothing");
  EXPECT_EQ(answer.error, 0);
  EXPECT_EQ(answer.as<fuse_entry_out>().nodeid, 0U);
  EXPECT_EQ(answer.as<fuse_entry_out>().entry_valid, 1U);
}

TEST_F(FuseTree, TellsAttributesAsTheyAre) {
  put_file("rw/file", "hello");
  const struct stat info = host_stat("rw/file");
  const fuse_attr attr = attributes(lookup(rw_, "file"));
  EXPECT_EQ(attr.size, 5U);
  EXPECT_EQ(attr.mode, info.st_mode);
  EXPECT_EQ(attr.uid, info.st_uid);
  EXPECT_EQ(attr.nlink, 1U);
  EXPECT_EQ(attr.mtime, static_cast<uint64_t>(info.st_mtim.tv_sec));
  EXPECT_EQ(attr.mtimensec, static_cast<uint32_t>(info.st_mtim.tv_nsec));
}

TEST_F(FuseTree, NeverFollowsASymbolicLink) {
  ASSERT_EQ(symlink("/etc", (root_ / "rw/link").c_str()), 0);
  const uint64_t link = lookup(rw_, "link");
  EXPECT_TRUE(S_ISLNK(attributes(link).mode));
  EXPECT_EQ(ask_name(FUSE_LOOKUP, link, "passwd").error, -ESTALE);
  EXPECT_EQ(open(link, O_RDONLY).error, -ENXIO);
  EXPECT_EQ(ask_bytes(FUSE_READLINK, link, nullptr, 0).text(), "/etc");
}

TEST_F(FuseTree, ForgetsWhatTheGuestForgets) {
  put_file("rw/file", "x");
  const uint64_t node = lookup(rw_, "file");
  EXPECT_EQ(lookup(rw_, "file"), node);
  forget(node, 1);
  EXPECT_EQ(ask(FUSE_GETATTR, node, fuse_getattr_in{}).error, 0);
  forget(node, 1);
  EXPECT_EQ(ask(FUSE_GETATTR, node, fuse_getattr_in{}).error, -ESTALE);
}

TEST_F(FuseTree, ForgetsInBatchesHoweverManyAreClaimed) {
  put_file("rw/file", "x");
  const uint64_t node = lookup(rw_, "file");
  const fuse_forget_one one{node, 1};
  const std::string rest(reinterpret_cast<const char*>(&one), sizeof one);
  EXPECT_EQ(ask(FUSE_BATCH_FORGET, 0, fuse_batch_forget_in{0xffffffff, 0}, rest).kind,
            FuseReply::Kind::kNone);
  EXPECT_EQ(ask(FUSE_GETATTR, node, fuse_getattr_in{}).error, -ESTALE);
}

TEST_F(FuseTree, ForgettingTooMuchIsHarmless) {
  put_file("rw/file", "x");
  const uint64_t node = lookup(rw_, "file");
  forget(node, 1000);
  forget(node, 1);
  forget(FUSE_ROOT_ID, 5);
  EXPECT_NE(lookup(rw_, "file"), 0U);
}

TEST_F(FuseTree, FindsFilesAgainWhoseDescriptorsWereClosed) {
  start({4, 64});
  std::filesystem::create_directories(root_ / "rw/a/b");
  for (int i = 0; i < 20; ++i) put_file("rw/a/b/" + std::to_string(i), std::to_string(i));
  const uint64_t b = lookup(lookup(rw_, "a"), "b");
  std::vector<uint64_t> nodes;
  for (int i = 0; i < 20; ++i) nodes.push_back(lookup(b, std::to_string(i)));
  for (int i = 0; i < 20; ++i) {
    const uint64_t handle = open_ok(nodes[static_cast<size_t>(i)], O_RDONLY);
    EXPECT_EQ(read(nodes[static_cast<size_t>(i)], handle, 0, 10), std::to_string(i));
    EXPECT_EQ(release(nodes[static_cast<size_t>(i)], handle), 0);
  }
}

TEST_F(FuseTree, AnotherFileUnderTheNameIsStale) {
  start({4, 64});
  put_file("rw/file", "old");
  const uint64_t node = lookup(rw_, "file");
  for (int i = 0; i < 20; ++i) {
    put_file("rw/" + std::to_string(i), "x");
    lookup(rw_, std::to_string(i));
  }
  std::filesystem::rename(root_ / "rw/file", root_ / "rw/kept");
  put_file("rw/file", "new");
  EXPECT_EQ(open(node, O_RDONLY).error, -ESTALE);
}

TEST_F(FuseTree, FollowsRenamesOfTheGuestAfterClosingDescriptors) {
  start({4, 64});
  put_file("rw/file", "content");
  const uint64_t node = lookup(rw_, "file");
  EXPECT_EQ(ask(FUSE_RENAME, rw_, fuse_rename_in{rw_}, z("file") + z("moved")).error, 0);
  for (int i = 0; i < 20; ++i) {
    put_file("rw/" + std::to_string(i), "x");
    lookup(rw_, std::to_string(i));
  }
  EXPECT_EQ(read(node, open_ok(node, O_RDONLY), 0, 10), "content");
}

TEST_F(FuseTree, ChangesModeSizeAndTimes) {
  put_file("rw/file", "hello");
  const uint64_t node = lookup(rw_, "file");
  fuse_setattr_in wanted{};
  wanted.valid = FATTR_MODE | FATTR_SIZE | FATTR_ATIME | FATTR_MTIME;
  wanted.mode = 0600;
  wanted.size = 2;
  wanted.atime = 1000;
  wanted.mtime = 2000;
  wanted.mtimensec = 77;
  EXPECT_EQ(set(node, wanted).error, 0);
  const struct stat info = host_stat("rw/file");
  EXPECT_EQ(info.st_mode & 07777, 0600U);
  EXPECT_EQ(info.st_size, 2);
  EXPECT_EQ(info.st_atim.tv_sec, 1000);
  EXPECT_EQ(info.st_mtim.tv_sec, 2000);
  EXPECT_EQ(info.st_mtim.tv_nsec, 77);
}

TEST_F(FuseTree, LeavesOutTimesThatWereNotAskedFor) {
  put_file("rw/file", "x");
  const uint64_t node = lookup(rw_, "file");
  const struct stat before = host_stat("rw/file");
  fuse_setattr_in wanted{};
  wanted.valid = FATTR_ATIME;
  wanted.atime = 5;
  wanted.atimensec = UTIME_OMIT;  // not a number of nanoseconds
  EXPECT_EQ(set(node, wanted).error, 0);
  EXPECT_EQ(host_stat("rw/file").st_atim.tv_sec, 5);
  EXPECT_EQ(host_stat("rw/file").st_mtim.tv_sec, before.st_mtim.tv_sec);
}

TEST_F(FuseTree, ChangesTheOwner) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  put_file("rw/file", "x");
  fuse_setattr_in wanted{};
  wanted.valid = FATTR_UID | FATTR_GID;
  wanted.uid = 1234;
  wanted.gid = 4321;
  EXPECT_EQ(set(lookup(rw_, "file"), wanted).error, 0);
  EXPECT_EQ(host_stat("rw/file").st_uid, 1234U);
  EXPECT_EQ(host_stat("rw/file").st_gid, 4321U);
}

TEST_F(FuseTree, DoesNotTruncateWhatIsNoFile) {
  fuse_setattr_in wanted{};
  wanted.valid = FATTR_SIZE;
  EXPECT_EQ(set(rw_, wanted).error, -EISDIR);
}

TEST_F(FuseTree, TellsTheFileSystemsSize) {
  const auto out = ask_bytes(FUSE_STATFS, rw_, nullptr, 0).as<fuse_statfs_out>();
  EXPECT_GT(out.st.blocks, 0U);
  EXPECT_EQ(ask_bytes(FUSE_STATFS, FUSE_ROOT_ID, nullptr, 0).error, 0);
}

TEST_F(FuseTree, RemovedShareIsNotFoundButLivesOn) {
  put_file("rw/file", "x");
  const uint64_t node = lookup(rw_, "file");
  ASSERT_TRUE(session_->remove_entry("rw"));
  EXPECT_EQ(ask_name(FUSE_LOOKUP, FUSE_ROOT_ID, "rw").error, -ENOENT);
  EXPECT_EQ(open(node, O_RDONLY).error, 0);
}

TEST_F(FuseTree, SharesHaveDistinctNames) {
  const auto open_root = [this] { return UniqueFd(::open(root_.c_str(), O_PATH)); };
  EXPECT_EQ(session_->add_entry("rw", open_root(), {}).error().kind, ErrorKind::kAlreadyExists);
  EXPECT_EQ(session_->add_entry("..", open_root(), {}).error().kind, ErrorKind::kInvalidArgument);
  EXPECT_EQ(session_->add_entry("a/b", open_root(), {}).error().kind, ErrorKind::kInvalidArgument);
  EXPECT_EQ(session_->remove_entry("never").error().kind, ErrorKind::kNotFound);
}

}  // namespace
}  // namespace kiln::vmm
