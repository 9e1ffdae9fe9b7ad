// SPDX-License-Identifier: Apache-2.0
#include "agent/container/volume_copy.h"

#include <gtest/gtest.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <vector>

#include "agent/protocol/messages.h"
#include "base/file.h"
#include "base/temporary_directory.h"

namespace kiln::agent {
namespace {

namespace fs = std::filesystem;
using Files = std::map<std::string, std::string>;

class VolumeCopyTest : public testing::Test {
 protected:
  void SetUp() override {
    fs::create_directory(source_);
    fs::create_directory(memory_);
  }
  void write(const std::string& version, const Files& files) const {
    fs::create_directory(source_ / version);
    for (const auto& [name, text] : files) {
      fs::create_directories((source_ / version / name).parent_path());
      std::ofstream(source_ / version / name, std::ios::binary) << text;
    }
  }
  std::unique_ptr<VolumeCopy> copy(const std::string& version) const {
    auto made = VolumeCopy::create(source_, memory_, version);
    EXPECT_TRUE(made) << made.error().message;
    return made ? std::move(*made) : nullptr;
  }
  static std::vector<std::string> names(const fs::path& directory) {
    std::vector<std::string> out;
    for (const auto& entry : fs::directory_iterator(directory))
      out.push_back(entry.path().filename());
    std::sort(out.begin(), out.end());
    return out;
  }
  using Names = std::vector<std::string>;

  TemporaryDirectory directory_ = *TemporaryDirectory::create(testing::TempDir(), "volume-");
  fs::path source_ = directory_.path() + "/source";
  fs::path memory_ = directory_.path() + "/memory";
};

TEST_F(VolumeCopyTest, HasContentModesAndLayoutOfTheVolume) {
  const std::string binary("\0\xff\n\0", 4);
  write("..1", {{"key", "one"}, {"binary", binary}, {"deep/er", "below"}});
  fs::permissions(source_, fs::perms(02775));
  fs::permissions(source_ / "..1" / "key", fs::perms(0400));
  const auto volume = copy("..1");
  const fs::path path = volume->path();
  EXPECT_EQ(names(path), (Names{"..1", "..data", "binary", "deep", "key"}));
  EXPECT_EQ(fs::read_symlink(path / "..data"), "..1");
  EXPECT_EQ(fs::read_symlink(path / "key"), "..data/key");
  EXPECT_EQ(*read_file(path / "binary"), binary);
  EXPECT_EQ(*read_file(path / "deep/er"), "below");
  struct stat status {};
  ASSERT_EQ(stat((path / "key").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0400U);
  ASSERT_EQ(stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 02775U);
}

TEST_F(VolumeCopyTest, GoesOverToAVersionWithOtherNames) {
  write("..1", {{"stays", "1"}, {"goes", "1"}});
  const auto volume = copy("..1");
  write("..2", {{"stays", "2"}, {"comes", "2"}});
  ASSERT_TRUE(volume->update("..2"));
  const fs::path path = volume->path();
  EXPECT_EQ(names(path), (Names{"..2", "..data", "comes", "stays"}));
  EXPECT_EQ(*read_file(path / "stays"), "2");
  EXPECT_EQ(*read_file(path / "comes"), "2");
}

TEST_F(VolumeCopyTest, TellsWatchersAsTheKubeletWould) {
  write("..1", {{"key", "1"}});
  const auto volume = copy("..1");
  const UniqueFd watches(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  const int directory =
      inotify_add_watch(watches.get(), volume->path().c_str(), IN_CREATE | IN_MOVED_TO | IN_DELETE);
  const std::string key = volume->path() + "/key";
  const int file = inotify_add_watch(watches.get(), key.c_str(), IN_ATTRIB | IN_DELETE_SELF);
  write("..2", {{"key", "2"}});
  ASSERT_TRUE(volume->update("..2"));
  std::vector<std::pair<uint32_t, std::string>> events;
  alignas(inotify_event) std::array<char, 8192> buffer{};
  const ssize_t size = read(watches.get(), buffer.data(), buffer.size());
  for (ssize_t at = 0; at < size;) {
    const auto* event = reinterpret_cast<const inotify_event*>(buffer.data() + at);
    at += static_cast<ssize_t>(sizeof *event + event->len);
    if (event->wd == file) events.emplace_back(event->mask, "(file)");
    if (event->wd == directory) events.emplace_back(event->mask & ~IN_ISDIR, event->name);
  }
  const std::vector<std::pair<uint32_t, std::string>> expected = {
      {IN_CREATE, "..2"},    {IN_CREATE, "..data_tmp"},  {IN_MOVED_TO, "..data"},
      {IN_ATTRIB, "(file)"}, {IN_DELETE_SELF, "(file)"}, {IN_IGNORED, "(file)"},
      {IN_DELETE, "..1"}};
  EXPECT_EQ(events, expected);
}

TEST_F(VolumeCopyTest, StartsEmptyAndIsFilledLater) {
  const auto volume = copy("");
  EXPECT_EQ(names(volume->path()), Names{});
  write("..1", {{"key", "1"}});
  ASSERT_TRUE(volume->update("..1"));
  EXPECT_EQ(*read_file(volume->path() + "/key"), "1");
}

TEST_F(VolumeCopyTest, KeepsDirectoriesForOtherMounts) {
  fs::create_directories(source_ / "mounted" / "here");
  write("..1", {{"key", "1"}});
  const auto volume = copy("..1");
  EXPECT_TRUE(fs::is_directory(volume->path() + "/mounted/here"));
  write("..2", {{"mounted", "2"}});
  ASSERT_TRUE(volume->update("..2"));
  EXPECT_TRUE(fs::is_directory(volume->path() + "/mounted/here"));
}

TEST_F(VolumeCopyTest, StaysAsItIsWhenTheVersionHasGone) {
  write("..1", {{"key", "1"}});
  const auto volume = copy("..1");
  const auto updated = volume->update("..2");
  ASSERT_FALSE(updated);
  EXPECT_EQ(updated.error().sys_errno, ENOENT);
  EXPECT_EQ(names(volume->path()), (Names{"..1", "..data", "key"}));
  EXPECT_EQ(*read_file(volume->path() + "/key"), "1");
}

TEST_F(VolumeCopyTest, RefusesMoreThanIsBoundedAndStaysAsItIs) {
  write("..1", {{"key", "1"}});
  const auto volume = copy("..1");
  write("..2", {{"large", std::string(protocol::kMaxVolumeBytes, 'x')}, {"other", "y"}});
  EXPECT_EQ(volume->update("..2").error().kind, ErrorKind::kOutOfRange);
  Files many;
  for (size_t i = 0; i <= protocol::kMaxVolumeNames; ++i) many[std::to_string(i)] = "";
  write("..3", many);
  EXPECT_EQ(volume->update("..3").error().kind, ErrorKind::kOutOfRange);
  EXPECT_EQ(names(volume->path()), (Names{"..1", "..data", "key"}));
}

TEST_F(VolumeCopyTest, FollowsNoLinkOfTheSource) {
  fs::create_directory(directory_.path() + "/outside");
  fs::create_symlink(directory_.path() + "/outside", source_ / "..1");
  EXPECT_FALSE(VolumeCopy::create(source_, memory_, "..1"));
  EXPECT_EQ(names(memory_), Names{});
}

TEST_F(VolumeCopyTest, IsGoneWithItsContainer) {
  write("..1", {{"key", "1"}, {"deep/er", "2"}});
  copy("..1").reset();
  EXPECT_EQ(names(memory_), Names{});
}

}  // namespace
}  // namespace kiln::agent
