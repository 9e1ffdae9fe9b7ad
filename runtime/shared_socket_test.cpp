// SPDX-License-Identifier: Apache-2.0
#include "runtime/shared_socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>

#include "base/file.h"
#include "base/temporary_directory.h"
#include "base/unix_socket.h"

namespace kiln::runtime {
namespace {

namespace fs = std::filesystem;

class SharedSocketTest : public testing::Test {
 protected:
  SharedSocketTest() { fs::create_directory(share_ / "sub"); }
  Result<SharedSocket> make() const {
    return SharedSocket::listen(
        {*open_file(share_ / "sub", O_PATH | O_DIRECTORY), share_, "sub", "s"});
  }
  struct stat look() const {
    struct stat info {};
    EXPECT_EQ(lstat(path_.c_str(), &info), 0);
    return info;
  }

  TemporaryDirectory directory_ = *TemporaryDirectory::create(testing::TempDir(), "shared-");
  fs::path share_ = directory_.path();
  std::string path_ = share_ / "sub/s";
};

TEST_F(SharedSocketTest, ListensAndGoesWithItsFile) {
  {
    auto socket = make();
    ASSERT_TRUE(socket) << socket.error().message;
    EXPECT_TRUE(connect_unix(path_));
    EXPECT_EQ(look().st_mode & 07777, 0600U);
  }
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(SharedSocketTest, BelongsToWhoHasTheDirectory) {
  if (geteuid() != 0) GTEST_SKIP() << "takes root";
  ASSERT_EQ(chown((share_ / "sub").c_str(), 1234, 567), 0);
  ASSERT_EQ(chmod((share_ / "sub").c_str(), 0775), 0);
  const auto socket = make();
  ASSERT_TRUE(socket);
  EXPECT_EQ(look().st_uid, 1234U);
  EXPECT_EQ(look().st_gid, 567U);
  EXPECT_EQ(look().st_mode & 07777, 0660U);
}

TEST_F(SharedSocketTest, LeavesAFileThatIsThere) {
  std::ofstream(path_) << "x";
  const auto socket = make();
  ASSERT_FALSE(socket);
  EXPECT_EQ(socket.error().kind, ErrorKind::kAlreadyExists);
  EXPECT_EQ(socket.error().message, "create the socket `s`: File exists");
  EXPECT_EQ(*read_file(path_), "x");
}

TEST_F(SharedSocketTest, LeavesWhatHasTakenItsPlace) {
  SharedSocketRecord record;
  UniqueFd other;
  {
    auto socket = make();
    ASSERT_TRUE(socket);
    record = socket->record();
    fs::remove(path_);
    other = *listen_unix(path_);
  }
  EXPECT_TRUE(fs::exists(path_));
  ASSERT_TRUE(remove_shared_socket(record));
  EXPECT_TRUE(fs::exists(path_));
}

TEST_F(SharedSocketTest, IsRemovedAfterACrashAndOnlyOnce) {
  std::optional<SharedSocket> socket(std::move(*make()));
  const SharedSocketRecord record = socket->record();
  ASSERT_TRUE(remove_shared_socket(record));
  EXPECT_FALSE(fs::exists(path_));
  ASSERT_TRUE(remove_shared_socket(record));
  fs::remove(share_ / "sub");
  ASSERT_TRUE(remove_shared_socket(record));
}

TEST_F(SharedSocketTest, IsNotFollowedOverASymbolicLink) {
  std::optional<SharedSocket> socket(std::move(*make()));
  fs::rename(share_ / "sub", share_ / "moved");
  fs::create_directory_symlink("moved", share_ / "sub");
  ASSERT_TRUE(remove_shared_socket(socket->record()));
  EXPECT_TRUE(fs::exists(share_ / "moved/s"));
  socket.reset();
  EXPECT_FALSE(fs::exists(share_ / "moved/s")) << "it knows the directory itself";
}

TEST_F(SharedSocketTest, RefusesANameThatIsTooLong) {
  const auto socket = SharedSocket::listen(
      {*open_file(share_, O_PATH | O_DIRECTORY), share_, ".", std::string(100, 'n')});
  ASSERT_FALSE(socket);
  EXPECT_EQ(socket.error().sys_errno, ENAMETOOLONG);
}

}  // namespace
}  // namespace kiln::runtime
