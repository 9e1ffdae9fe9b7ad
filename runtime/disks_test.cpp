// SPDX-License-Identifier: Apache-2.0
#include "runtime/disks.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/temporary_directory.h"
#include "oci/parse.h"

namespace kiln::runtime {
namespace {

namespace fs = std::filesystem;

class DisksTest : public testing::Test {
 protected:
  void SetUp() override {
    spec_.root->path = "rootfs";
    spec_.root->readonly = false;
    spec_.mounts.clear();
  }

  // An image that has `bytes` at `offset`, and zeroes.
  void write_image(const std::string& name, size_t offset, const std::string& bytes) {
    std::ofstream file(directory_ / name, std::ios::binary);
    file << std::string(offset, '\0') << bytes << std::string(4096, '\0');
  }
  void write_ext4(const std::string& name) { write_image(name, 1024 + 56, "\x53\xef"); }
  void mount(const std::string& type, const std::string& source, oci::Strings options = {}) {
    oci::Mount mount;
    mount.destination = "/data";
    mount.type = type;
    mount.source = source;
    mount.options = std::move(options);
    spec_.mounts.push_back(mount);
  }
  Result<Disks> open(bool overlaid = false) { return open_disks(spec_, directory_, overlaid); }
  std::string error() {
    const auto disks = open();
    return disks ? "opened" : disks.error().message;
  }
  std::string in_directory(const std::string& name) { return directory_ / name; }

  TemporaryDirectory made_ = *TemporaryDirectory::create(testing::TempDir(), "kiln-disks-");
  const fs::path directory_ = made_.path();
  oci::Spec spec_ = oci::default_spec(false);
};

TEST_F(DisksTest, DirectoryIsNoDisk) {
  fs::create_directory(directory_ / "rootfs");
  mount("tmpfs", "tmpfs");
  mount("proc", "proc");
  const auto disks = open();
  ASSERT_TRUE(disks) << disks.error().message;
  EXPECT_FALSE(disks->has_root);
  EXPECT_TRUE(disks->list.empty());
}

TEST_F(DisksTest, RootFileSystemsAreKnownByTheirMagic) {
  const std::tuple<size_t, std::string, const char*, bool> cases[] = {
      {1024 + 56, "\x53\xef", "ext4", false},
      {1024, "\xe2\xe1\xf5\xe0", "erofs", true},
      {0, "hsqs", "squashfs", true},
      {0, "XFSB", "xfs", false}};
  for (const auto& [offset, magic, type, read_only] : cases) {
    write_image("rootfs", offset, magic);
    const auto disks = open();
    ASSERT_TRUE(disks) << disks.error().message;
    ASSERT_TRUE(disks->has_root);
    EXPECT_EQ(disks->list[0].id, "rootfs");
    EXPECT_EQ(disks->list[0].type, type);
    EXPECT_EQ(disks->list[0].read_only, read_only) << type;
  }
}

TEST_F(DisksTest, LayersAreReadOnlyAndTheirUpperIsNot) {
  write_image("2", 1024, "\xe2\xe1\xf5\xe0");
  write_image("1", 1024, "\xe2\xe1\xf5\xe0");
  write_ext4("rw");
  RootLayers layers{{in_directory("2"), in_directory("1")}, in_directory("rw")};
  const auto disks = open_disks(spec_, directory_, false, layers);
  ASSERT_TRUE(disks) << disks.error().message;
  EXPECT_TRUE(disks->has_root && disks->has_upper);
  EXPECT_EQ(disks->root_layers, 2U);
  ASSERT_EQ(disks->list.size(), 3U);
  EXPECT_EQ(disks->list[1].id, "layer-1");
  EXPECT_TRUE(disks->list[0].read_only && disks->list[1].read_only);
  EXPECT_FALSE(disks->list[2].read_only);
  // What is written has one writer, layers have any number of readers.
  EXPECT_FALSE(open_disks(spec_, directory_, false, layers));
  layers.upper.clear();
  EXPECT_TRUE(open_disks(spec_, directory_, false, layers));
}

TEST_F(DisksTest, RootWithoutAKnownFileSystemIsRefused) {
  write_image("rootfs", 0, "text");
  EXPECT_EQ(error(), "rootfs `" + in_directory("rootfs") +
                         "`: it is not a directory, and has no file system that is known here "
                         "(ext2, ext3, ext4, erofs, squashfs, xfs)");
}

TEST_F(DisksTest, ShortImagesAreNoFileSystems) {
  for (const size_t size : {1, 4, 1023, 1025, 1081}) {
    std::ofstream(directory_ / "rootfs") << std::string(size, 'x');
    EXPECT_NE(error(), "opened") << size;
  }
}

TEST_F(DisksTest, EmptyImageIsRefused) {
  fs::create_directory(directory_ / "rootfs");
  std::ofstream(directory_ / "empty").close();
  mount("ext4", "empty");
  EXPECT_EQ(error(), "mount `/data`: `empty`: it is empty");
}

TEST_F(DisksTest, ReadOnlyRootIsOpenedSo) {
  write_ext4("rootfs");
  spec_.root->readonly = true;
  const auto disks = open();
  ASSERT_TRUE(disks) << disks.error().message;
  EXPECT_TRUE(disks->list[0].read_only);
  EXPECT_EQ(fcntl(disks->list[0].fd.get(), F_GETFL) & O_ACCMODE, O_RDONLY);
}

TEST_F(DisksTest, OverlaidRootIsNotWritten) {
  write_ext4("rootfs");
  const auto disks = open(true);
  ASSERT_TRUE(disks) << disks.error().message;
  EXPECT_EQ(fcntl(disks->list[0].fd.get(), F_GETFL) & O_ACCMODE, O_RDONLY);
}

TEST_F(DisksTest, WrittenImageHasOneUser) {
  write_ext4("rootfs");
  auto first = open();
  ASSERT_TRUE(first) << first.error().message;
  EXPECT_EQ(fcntl(first->list[0].fd.get(), F_GETFL) & O_ACCMODE, O_RDWR);
  const std::string in_use =
      "rootfs `" + in_directory("rootfs") + "`: it is in use by another container";
  EXPECT_EQ(error(), in_use);
  spec_.root->readonly = true;
  EXPECT_EQ(error(), in_use);
  first->list.clear();
  EXPECT_EQ(error(), "opened");
}

TEST_F(DisksTest, ReadImageHasSeveral) {
  write_ext4("rootfs");
  spec_.root->readonly = true;
  const auto first = open();
  const auto second = open();
  EXPECT_TRUE(first && second);
}

TEST_F(DisksTest, MountsOfDiskTypesAreDrivesOfTheirIndex) {
  fs::create_directory(directory_ / "rootfs");
  write_ext4("one");
  write_image("two", 0, "anything");  // its type is the specification's
  mount("tmpfs", "tmpfs");
  mount("ext4", "one", {"noatime", "loop"});
  mount("erofs", in_directory("two"));
  mount("ext4", "one", {"rbind"});  // a bind mount of a file, whatever its type says
  const auto disks = open();
  ASSERT_TRUE(disks) << disks.error().message;
  ASSERT_EQ(disks->list.size(), 2U);
  EXPECT_EQ(disks->list[0].id, "mount-1");
  EXPECT_FALSE(disks->list[0].read_only);
  EXPECT_EQ(disks->list[1].id, "mount-2");
  EXPECT_TRUE(disks->list[1].read_only);
  EXPECT_EQ(disks->of_mounts, (std::map<size_t, size_t>{{1, 0}, {2, 1}}));
}

TEST_F(DisksTest, MountOfWhatIsNoDiskIsRefused) {
  fs::create_directory(directory_ / "rootfs");
  mount("ext4", "rootfs");
  EXPECT_EQ(error(), "mount `/data`: `rootfs`: it is neither a block device nor an image file");
  spec_.mounts[0].source = "missing";
  EXPECT_EQ(error(), "mount `/data`: `missing`: open it: No such file or directory");
  spec_.mounts[0].source = "/dev/null";
  EXPECT_EQ(error(), "mount `/data`: `/dev/null`: it is neither a block device nor an image file");
}

TEST_F(DisksTest, ThereIsAnEndToThem) {
  fs::create_directory(directory_ / "rootfs");
  write_image("image", 0, "x");
  for (int i = 0; i < 17; ++i) mount("erofs", "image");
  EXPECT_EQ(error(), "more than 16 block devices");
}

}  // namespace
}  // namespace kiln::runtime
