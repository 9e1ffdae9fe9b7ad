// SPDX-License-Identifier: Apache-2.0
#include "runtime/shares.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>

#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "base/unix_socket.h"
#include "oci/parse.h"
#include "runtime/plan.h"

namespace kiln::runtime {
namespace {

namespace fs = std::filesystem;

class SharesTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = "/tmp/kiln-shares-XXXXXX";
    directory_ = mkdtemp(name.data());
    fs::create_directory(directory_ / "rootfs");
    fs::create_directory(directory_ / "data");
    std::ofstream(directory_ / "file") << "x";
  }
  void TearDown() override { fs::remove_all(directory_); }
  void bind(const std::string& destination, const std::string& source, oci::Strings options) {
    oci::Mount mount;
    mount.destination = destination;
    mount.type = "bind";
    mount.source = source;
    mount.options = std::move(options);
    spec_.mounts.push_back(mount);
  }

  fs::path directory_;
  oci::Spec spec_ = [] {
    oci::Spec spec = oci::default_spec(false);
    spec.mounts.clear();
    return spec;
  }();
};

TEST_F(SharesTest, WhatHasMountsBelowIsNotTheSameForAll) {
  spec_.root->readonly = false;
  bind("/data", directory_ / "data", {"rbind"});
  bind("/file", "file", {"bind"});
  bind("/all", "/", {"rbind"});
  bind("/one", "/", {"bind"});
  const auto shares = open_shares(spec_, directory_, RootKind::kPlain, "");
  ASSERT_TRUE(shares) << shares.error().message;
  std::vector<bool> same;
  for (const Share& share : shares->list) same.push_back(share.same_for_all);
  EXPECT_EQ(same, (std::vector<bool>{false, true, true, false, true}));
}

TEST_F(SharesTest, BindMountsBecomeEntriesAndTheServerEnforcesTheirReadOnly) {
  spec_.root->readonly = false;
  bind("/rw", directory_ / "data", {"rbind"});
  bind("/ro", "file", {"bind", "ro"});
  bind("/rro", directory_ / "data", {"rbind", "rro"});
  const auto shares = open_shares(spec_, directory_, RootKind::kPlain, "");
  ASSERT_TRUE(shares) << shares.error().message;
  ASSERT_EQ(shares->list.size(), 4U);
  EXPECT_EQ(shares->list[0].entry, "rootfs");
  EXPECT_FALSE(shares->list[0].read_only);
  EXPECT_FALSE(shares->list[1].read_only);
  EXPECT_TRUE(shares->list[2].read_only);
  EXPECT_TRUE(shares->list[3].read_only);
  EXPECT_EQ(shares->bind_entries.at(1), "mount-1");
}

// `data` with a tmpfs below it, until the end: in a mount namespace of the test's own.
class TreeOfMounts : public SharesTest {
 protected:
  void SetUp() override {
    SharesTest::SetUp();
    fs::create_directory(directory_ / "data/nested");
    std::ofstream(directory_ / "data/file") << "x";
    if (unshare(CLONE_NEWNS) != 0) GTEST_SKIP() << "needs the privilege to mount";
    ASSERT_EQ(mount("", "/", nullptr, MS_PRIVATE | MS_REC, nullptr), 0);
    nested_ = directory_ / "data/nested";
    ASSERT_EQ(mount("tmpfs", nested_.c_str(), "tmpfs", 0, nullptr), 0);
  }
  void TearDown() override {
    umount2(nested_.c_str(), MNT_DETACH);
    SharesTest::TearDown();
  }
  // The errno of making a file there; 0 if it went well.
  static int make(const Share& share, const char* name) {
    const UniqueFd file(
        openat(share.fd.get(), name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600));
    return file ? 0 : errno;
  }
  std::string nested_;
};

TEST_F(TreeOfMounts, ReadOnlyIsForTheTopAlone) {
  bind("/ro", directory_ / "data", {"rbind", "ro"});
  const auto shares = open_shares(spec_, directory_, RootKind::kDisk);
  ASSERT_TRUE(shares) << shares.error().message;
  const Share& share = shares->list.at(0);
  EXPECT_TRUE(share.top_read_only);
  EXPECT_FALSE(share.read_only);
  EXPECT_EQ(shares->read_only_tops, std::set<size_t>{0});
  EXPECT_EQ(make(share, "new"), EROFS);
  EXPECT_EQ(make(share, "nested/new"), 0);
  EXPECT_TRUE(fs::exists(directory_ / "data/nested/new"));
  // Only the copy is.
  EXPECT_TRUE(std::ofstream(directory_ / "data/of-the-host"));
}

TEST_F(TreeOfMounts, WhatIsBelowIsReadOnlyTooWhereItIsTheHostsOwnControls) {
  fs::create_directory(directory_ / "data/nested/proc");
  ASSERT_EQ(mount("proc", (nested_ + "/proc").c_str(), "proc", 0, nullptr), 0);
  bind("/ro", directory_ / "data", {"rbind", "ro"});
  bind("/host", "/", {"rbind", "ro"});
  const auto shares = open_shares(spec_, directory_, RootKind::kDisk);
  umount2((nested_ + "/proc").c_str(), MNT_DETACH);
  ASSERT_TRUE(shares) << shares.error().message;
  EXPECT_TRUE(shares->list.at(0).read_only);
  EXPECT_TRUE(shares->list.at(1).read_only);
  EXPECT_TRUE(shares->read_only_tops.empty());
}

TEST_F(TreeOfMounts, RecursivelyReadOnlyIsTheServersToSeeTo) {
  bind("/rro", directory_ / "data", {"rbind", "rro"});
  bind("/both", directory_ / "data", {"rbind", "ro", "rro"});
  bind("/one", directory_ / "data", {"bind", "ro"});
  bind("/rw", directory_ / "data", {"rbind"});
  const auto shares = open_shares(spec_, directory_, RootKind::kDisk);
  ASSERT_TRUE(shares) << shares.error().message;
  std::vector<bool> read_only;
  for (const Share& share : shares->list) read_only.push_back(share.read_only);
  EXPECT_EQ(read_only, (std::vector<bool>{true, true, true, false}));
  EXPECT_TRUE(shares->read_only_tops.empty());
}

TEST_F(SharesTest, AReadOnlyRootfsGetsItsMissingMountpoints) {
  spec_.root->readonly = true;
  spec_.process->cwd = "/work/here";
  bind("/a/b/directory", directory_ / "data", {"rbind"});
  bind("/a/b/file", directory_ / "file", {"bind"});
  bind("/a/b/directory/below", directory_ / "data", {"rbind"});
  const auto shares = open_shares(spec_, directory_, RootKind::kPlain, "");
  ASSERT_TRUE(shares) << shares.error().message;
  EXPECT_TRUE(shares->list[0].read_only);
  EXPECT_TRUE(fs::is_directory(directory_ / "rootfs/a/b/directory"));
  EXPECT_TRUE(fs::is_regular_file(directory_ / "rootfs/a/b/file"));
  EXPECT_TRUE(fs::is_directory(directory_ / "rootfs/work/here"));
  EXPECT_FALSE(fs::exists(directory_ / "rootfs/a/b/directory/below")) << "a mount covers it";
}

TEST_F(SharesTest, UnderAnOverlayTheRootfsIsReadOnlyAndUntouched) {
  spec_.root->readonly = false;
  bind("/new", directory_ / "data", {"rbind"});
  const auto shares = open_shares(spec_, directory_, RootKind::kOverlaid, "");
  ASSERT_TRUE(shares);
  EXPECT_TRUE(shares->list[0].read_only);
  EXPECT_TRUE(fs::is_empty(directory_ / "rootfs"));
}

TEST_F(SharesTest, AMissingSourceIsNamed) {
  bind("/mnt", "/nonexistent/source", {"bind"});
  const auto shares = open_shares(spec_, directory_, RootKind::kPlain, "");
  ASSERT_FALSE(shares);
  EXPECT_NE(shares.error().message.find("`/nonexistent/source`: No such file"), std::string::npos);
}

TEST_F(SharesTest, ASocketIsNotSharedAndGetsAFileAsItsMountpoint) {
  const std::string path = directory_ / "sock";
  const auto listener = listen_unix(path);
  ASSERT_TRUE(listener) << listener.error().message;
  spec_.root->readonly = true;
  bind("/run/engine.sock", path, {"bind"});
  const auto shares = open_shares(spec_, directory_, RootKind::kPlain);
  ASSERT_TRUE(shares) << shares.error().message;
  EXPECT_EQ(shares->list.size(), 1U);
  EXPECT_TRUE(shares->bind_entries.empty());
  EXPECT_EQ(shares->sockets.at(0).source, path);
  EXPECT_TRUE(fs::is_regular_file(directory_ / "rootfs/run/engine.sock"));
}

TEST_F(SharesTest, ASymlinkInTheRootfsLeadsNoMountpointOutOfIt) {
  fs::create_directory(directory_ / "outside");
  fs::create_symlink(directory_ / "outside", directory_ / "rootfs/link");
  fs::create_symlink("../../../../../../../../../..", directory_ / "rootfs/up");
  const auto root = open_file(directory_ / "rootfs", O_PATH | O_DIRECTORY);
  static_cast<void>(make_mountpoint(root->get(), "/link/x", true));
  EXPECT_TRUE(make_mountpoint(root->get(), "/up/y", true));
  EXPECT_FALSE(make_mountpoint(root->get(), "/../z", true));
  EXPECT_TRUE(fs::is_empty(directory_ / "outside"));
  EXPECT_TRUE(fs::is_directory(directory_ / "rootfs/y"));
}

TEST(Plan, ComesBackAsItWas) {
  MonitorPlan plan;
  plan.id = "c1";
  plan.bundle = "/bundle";
  plan.spec = oci::default_spec(false);
  plan.overlay = true;
  plan.vmm_binary = "/usr/libexec/kiln-vmm";
  plan.vm.backend = vmm::Backend::kQemu;
  plan.vm.machine = {3, 777, true};
  plan.vm.boot_source = {"/k", "/i", "quiet"};
  plan.boot_timeout_ms = 12345;
  plan.ends_with_creator = true;
  plan.direct_terminal = true;
  plan.forwards = {{"/a", ""}, {"/b", "/c"}};
  const auto back = decode_plan(encode_plan(plan));
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(encode_plan(*back), encode_plan(plan));
  EXPECT_EQ(back->vm.machine.mem_size_mib, 777U);
  EXPECT_FALSE(decode_plan("{}"));
}

TEST(Plan, AnOutcomeKeepsItsNewlines) {
  EXPECT_TRUE(decode_outcome(encode_outcome({})));
  const auto back = decode_outcome(encode_outcome(make_error(ErrorKind::kAborted, "a\nb")));
  ASSERT_FALSE(back);
  EXPECT_EQ(back.error().message, "a\nb");
  EXPECT_EQ(back.error().kind, ErrorKind::kAborted);
}

}  // namespace
}  // namespace kiln::runtime
