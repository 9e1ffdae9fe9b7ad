// SPDX-License-Identifier: Apache-2.0
#include "vmm/api/confined_process.h"

#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>

#include <gtest/gtest.h>

#include "base/unix_socket.h"

namespace kiln::vmm {
namespace {

TEST(ConfinedProcess, DeathByItsFilterIsNamed) {
  EXPECT_EQ(describe_end("kiln-vmm fs", {0, SIGSYS}),
            "kiln-vmm fs made a system call that its filter forbids (SIGSYS; the kernel's log may "
            "have its number)");
}

TEST(ConfinedProcess, OtherEndsAreNumbers) {
  EXPECT_EQ(describe_end("kiln-vmm", {0, SIGKILL}), "kiln-vmm was killed by signal 9");
  EXPECT_EQ(describe_end("kiln-vmm", {3, 0}), "kiln-vmm ended with exit status 3");
}

class AdmitConfined : public testing::Test {
 protected:
  void SetUp() override {
    if (!can_change_ids()) GTEST_SKIP() << "needs root, and ids to change to";
    directory_ = testing::TempDir() + "kiln-admit-XXXXXX";
    ASSERT_NE(mkdtemp(directory_.data()), nullptr);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  static struct stat look(const std::string& path) {
    struct stat info {};
    EXPECT_EQ(stat(path.c_str(), &info), 0);
    return info;
  }

  std::string directory_;
};

TEST_F(AdmitConfined, DirectoryCanBePassedButNotListed) {
  ASSERT_TRUE(admit_confined(directory_));
  EXPECT_EQ(look(directory_).st_gid, kConfinedGid);
  EXPECT_EQ(look(directory_).st_uid, geteuid());
  EXPECT_EQ(look(directory_).st_mode & 07777U, 0710U);
}

TEST_F(AdmitConfined, SocketCanBeConnectedTo) {
  const auto listener = listen_unix(directory_ + "/socket");
  ASSERT_TRUE(listener);
  ASSERT_TRUE(admit_confined(directory_ + "/socket"));
  EXPECT_EQ(look(directory_ + "/socket").st_gid, kConfinedGid);
  EXPECT_EQ(look(directory_ + "/socket").st_mode & 07777U, 0620U);
}

TEST_F(AdmitConfined, MissingFileIsAnError) {
  const auto admitted = admit_confined(directory_ + "/missing");
  ASSERT_FALSE(admitted);
  EXPECT_EQ(admitted.error().sys_errno, ENOENT);
}

}  // namespace
}  // namespace kiln::vmm
