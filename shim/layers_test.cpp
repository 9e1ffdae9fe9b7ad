// SPDX-License-Identifier: Apache-2.0
#include "shim/layers.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "base/format.h"
#include "base/temporary_directory.h"

namespace kiln::shim {
namespace {

api::Mount mount_of(const std::string& type, const std::string& source,
                    const std::vector<std::string>& options = {}) {
  api::Mount mount;
  mount.set_type(type);
  mount.set_source(source);
  for (const std::string& option : options) mount.add_options(option);
  return mount;
}

// As containerd 2.4's erofs snapshotter writes them.
class LayersTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"rw", "2", "1"}) ASSERT_TRUE(write_file_atomic(path(name), "x", 0600));
  }
  std::string path(const std::string& name) const { return directory_.path() + "/" + name; }
  api::Mount layer(const std::string& name) const {
    return mount_of("erofs", path(name), {"ro", "loop"});
  }
  Mounts writable() const {
    return {
        mount_of("ext4", path("rw"), {"rw", "loop"}), layer("2"), layer("1"),
        mount_of("format/mkdir/overlay", "overlay",
                 {"X-containerd.mkdir.path={{ mount 0 }}/upper:0755",
                  "X-containerd.mkdir.path={{ mount 0 }}/work:0755", "workdir={{ mount 0 }}/work",
                  "upperdir={{ mount 0 }}/upper", "lowerdir={{ overlay 1 2 }}"})};
  }

  TemporaryDirectory directory_ = *TemporaryDirectory::create(testing::TempDir(), "layers-");
};

TEST_F(LayersTest, WithADiskGoToTheMachine) {
  const auto layers = root_layers(writable());
  ASSERT_TRUE(layers);
  EXPECT_EQ(layers->lower, (std::vector<std::string>{path("2"), path("1")}));
  EXPECT_EQ(layers->upper, path("rw"));
}

TEST_F(LayersTest, OfAReadOnlyViewGoToTheMachine) {
  const auto layers =
      root_layers({layer("2"), layer("1"),
                   mount_of("format/mkdir/overlay", "overlay", {"lowerdir={{ overlay 0 1 }}"})});
  ASSERT_TRUE(layers);
  EXPECT_EQ(layers->lower.size(), 2U);
  EXPECT_EQ(layers->upper, "");
}

TEST_F(LayersTest, OneLayerWithADiskGoesToTheMachine) {
  Mounts mounts = writable();
  mounts.erase(mounts.begin() + 2);
  *mounts.back().mutable_options(4) = "lowerdir={{ mount 1 }}";
  ASSERT_TRUE(root_layers(mounts));
  EXPECT_EQ(root_layers(mounts)->lower.size(), 1U);
}

TEST_F(LayersTest, WhatIsMoreThanThatIsMounted) {
  EXPECT_FALSE(root_layers({}));
  EXPECT_FALSE(root_layers({layer("1")}));
  // What is written goes to a directory of the host.
  EXPECT_FALSE(
      root_layers({layer("2"), layer("1"),
                   mount_of("format/mkdir/overlay", "overlay",
                            {"workdir=/w", "upperdir=/u", "lowerdir={{ overlay 0 1 }}"})}));
  Mounts mounts = writable();
  mounts.back().add_options("volatile");
  EXPECT_FALSE(root_layers(mounts));
  mounts = writable();
  mounts[1].add_options("X-containerd.dmverity=/v");
  EXPECT_FALSE(root_layers(mounts));
  mounts = writable();
  mounts[1].set_source(path("missing"));
  EXPECT_FALSE(root_layers(mounts));
  mounts = writable();
  *mounts.back().mutable_options(4) = "lowerdir={{ overlay 2 1 }}";
  EXPECT_FALSE(root_layers(mounts));
  mounts = writable();
  mounts.back().set_type("overlay");
  EXPECT_FALSE(root_layers(mounts));
  mounts = writable();
  mounts.insert(mounts.begin() + 1, 20, layer("1"));
  *mounts.back().mutable_options(4) = "lowerdir={{ overlay 1 22 }}";
  EXPECT_FALSE(root_layers(mounts));
}

TEST_F(LayersTest, ReferencesBecomePaths) {
  const Mounts mounts = writable();
  const auto resolved = resolve(mounts.back(), mounts, {"/p/0", "/p/1", "/p/2"});
  ASSERT_TRUE(resolved) << resolved.error().message;
  EXPECT_EQ(resolved->mount.type(), "overlay");
  ASSERT_EQ(resolved->mount.options_size(), 3);
  EXPECT_EQ(resolved->mount.options(0), "workdir=/p/0/work");
  EXPECT_EQ(resolved->mount.options(2), "lowerdir=/p/1:/p/2");
  ASSERT_EQ(resolved->directories.size(), 2U);
  EXPECT_EQ(resolved->directories[0].path, "/p/0/upper");
  EXPECT_EQ(resolved->directories[0].mode, 0755U);
}

TEST_F(LayersTest, ReferencesOfEveryKind) {
  const Mounts mounts = writable();
  const auto expanded = [&](const std::string& source) {
    const auto resolved = resolve(mount_of("format/bind", source), mounts, {"/p/0", "/p/1"});
    return resolved ? resolved->mount.source() : "none";
  };
  EXPECT_EQ(expanded("{{ mount 0 }}/a{{mount 1}}"), "/p/0/a/p/1");
  EXPECT_EQ(expanded("{{ overlay 1 0 }}"), "/p/1:/p/0");
  EXPECT_EQ(expanded("{{ source 0 }}"), path("rw"));
  EXPECT_EQ(expanded("{{ target 0 }}"), "");
  for (const char* wrong : {"{{ mount 2 }}", "{{ mount }}", "{{ mount x }}", "{{ mount -1 }}",
                            "{{ overlay 0 9 }}", "{{ other 0 }}", "{{ mount 0", "{{}}"})
    EXPECT_EQ(expanded(wrong), "none") << wrong;
}

TEST_F(LayersTest, WhatIsNotUnderstoodIsRefused) {
  EXPECT_FALSE(resolve(mount_of("mkfs/ext4", "/x"), {}, {}));
  EXPECT_FALSE(resolve(mount_of("erofs", "/x", {"X-containerd.dmverity=/v"}), {}, {}));
  EXPECT_FALSE(
      resolve(mount_of("mkdir/bind", "/x", {"X-containerd.mkdir.path=/a:0755:1:1"}), {}, {}));
  EXPECT_FALSE(resolve(mount_of("mkdir/bind", "/x", {"X-containerd.mkdir.path=/a:7777"}), {}, {}));
  // Without `format` the braces are a name's.
  EXPECT_EQ(resolve(mount_of("bind", "/{{ x"), {}, {})->mount.source(), "/{{ x");
}

}  // namespace
}  // namespace kiln::shim
