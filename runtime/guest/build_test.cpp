// SPDX-License-Identifier: Apache-2.0
// Modules, the archive, and a whole guest image from made-up parts.
#include "runtime/guest/build.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include <zstd.h>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "base/file.h"
#include "base/format.h"
#include "base/json.h"
#include "base/temporary_directory.h"
#include "runtime/guest/cpio.h"
#include "runtime/guest/decompress.h"
#include "runtime/guest/fake_kernel.h"
#include "runtime/guest/image.h"
#include "runtime/guest/image_parts.h"
#include "runtime/guest/initramfs.h"
#include "runtime/guest/kernel_options.h"
#include "runtime/guest/sha256.h"

namespace kiln::runtime {
namespace {

namespace fs = std::filesystem;
using namespace std::string_literals;

constexpr const char* kRelease = "6.1.0-test";

// A directory with a kernel, its .config, modules and an agent.
class GuestParts : public testing::Test {
 protected:
  void SetUp() override {
    auto directory = TemporaryDirectory::create(testing::TempDir(), "kiln-guest-test-");
    ASSERT_TRUE(directory);
    directory_.emplace(std::move(*directory));
    write(fmt::format("boot/vmlinuz-{}", kRelease), fake::bzimage(fake::good_kernel()));
    write(fmt::format("boot/config-{}", kRelease), config());
    write_module("kernel/drivers/virtio/virtio.ko", "depends=virtio-ring\0"s);
    write_module("kernel/drivers/virtio/virtio_ring.ko", "depends=\0"s);
    write_module("kernel/drivers/virtio/virtio_mmio.ko", "depends=virtio,virtio_ring\0"s);
    write_module("kernel/fs/fuse/fuse.ko",
                 "license=GPL\0softdep=pre: crc post: other\0depends=\0"s);
    write_module("kernel/lib/crc.ko", "depends=built-in\0"s);
    write("lib/modules/"s + kRelease + "/modules.builtin", "kernel/lib/built_in.ko\n");
    write("agent", fake::kernel("", "the agent"));
    build_.output = path("image");
    build_.agent = path("agent");
    build_.kernel = path(fmt::format("boot/vmlinuz-{}", kRelease));
    build_.modules = directory_->path();
  }

  std::string path(const std::string& name) const { return directory_->path() + "/" + name; }

  void write(const std::string& name, const std::string& content) const {
    fs::create_directories(fs::path(path(name)).parent_path());
    ASSERT_TRUE(write_file_atomic(path(name), content, 0644));
  }

  void write_module(const std::string& name, const std::string& modinfo) const {
    write(fmt::format("lib/modules/{}/{}", kRelease, name), fake::module(modinfo));
  }

  static std::string config() {
    std::string out;
    for (const auto& [name, value] : check_kernel_options({}).found) {
      const bool module = name == "VIRTIO_MMIO" || name == "FUSE_FS";
      out += fmt::format("CONFIG_{}={}\n", name, module ? "m" : "y");
    }
    return out;
  }

  Result<BuiltGuest> build() const {
    Progress progress(true);
    return build_guest(build_, progress);
  }
  std::string failure() const {
    const auto built = build();
    return built ? "no error" : built.error().message;
  }

  std::optional<TemporaryDirectory> directory_;
  GuestBuild build_;
};

std::vector<std::string> names_of(const std::vector<KernelModule>& modules) {
  std::vector<std::string> out;
  for (const KernelModule& module : modules) out.push_back(module.name);
  return out;
}

TEST_F(GuestParts, ModulesComeAfterWhatTheyNeed) {
  const auto tree = ModuleTree::open(directory_->path());
  ASSERT_TRUE(tree) << tree.error().message;
  EXPECT_EQ(tree->release(), kRelease);
  const auto modules = tree->resolve({"virtio-mmio", "fuse", "built_in"});
  ASSERT_TRUE(modules) << modules.error().message;
  EXPECT_EQ(names_of(*modules),
            (std::vector<std::string>{"virtio_ring", "virtio", "virtio_mmio", "crc", "fuse"}));
}

TEST_F(GuestParts, CompressedModulesAreUnpacked) {
  const std::string plain = fake::module("depends=\0"s);
  std::string packed(ZSTD_compressBound(plain.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), plain.data(), plain.size(), 1));
  write(fmt::format("lib/modules/{}/kernel/fs/overlayfs/overlay.ko.zst", kRelease), packed);
  const auto tree = ModuleTree::open(directory_->path());
  ASSERT_TRUE(tree);
  const auto modules = tree->resolve({"overlay"});
  ASSERT_TRUE(modules) << modules.error().message;
  ASSERT_EQ(modules->size(), 1U);
  EXPECT_EQ(modules->front().content, plain);
}

TEST_F(GuestParts, MissingModuleIsNamed) {
  const auto tree = ModuleTree::open(directory_->path());
  ASSERT_TRUE(tree);
  const auto modules = tree->resolve({"overlay"});
  ASSERT_FALSE(modules);
  EXPECT_EQ(modules.error().message,
            "kernel module `overlay`: neither among the modules of 6.1.0-test nor built in");
}

TEST_F(GuestParts, ModulesInACircleAreAnError) {
  write_module("kernel/a.ko", "depends=b\0"s);
  write_module("kernel/b.ko", "depends=a\0"s);
  const auto tree = ModuleTree::open(directory_->path());
  ASSERT_TRUE(tree);
  EXPECT_FALSE(tree->resolve({"a"}));
}

TEST_F(GuestParts, SoftCircleIsNone) {
  write_module("kernel/a.ko", "softdep=pre: b\0depends=\0"s);
  write_module("kernel/b.ko", "softdep=pre: a\0depends=\0"s);
  const auto tree = ModuleTree::open(directory_->path());
  ASSERT_TRUE(tree);
  const auto modules = tree->resolve({"a"});
  ASSERT_TRUE(modules) << modules.error().message;
  EXPECT_EQ(names_of(*modules), (std::vector<std::string>{"b", "a"}));
}

TEST_F(GuestParts, TruncatedModuleIsNamed) {
  write("lib/modules/"s + kRelease + "/kernel/fs/fuse/fuse.ko",
        fake::module("depends=\0"s).substr(0, 90));
  EXPECT_NE(failure().find("fuse.ko`: truncated ELF file"), std::string::npos) << failure();
}

TEST_F(GuestParts, ImageHasKernelInitramfsAndManifest) {
  const auto built = build();
  ASSERT_TRUE(built) << built.error().message;
  EXPECT_EQ(built->kernel_release, kRelease);
  EXPECT_EQ(*read_file(path("image/vmlinux")), fake::good_kernel());
  const std::string archive = *read_file(path("image/initramfs.cpio"));
  const auto entries = read_cpio(archive);
  ASSERT_TRUE(entries) << entries.error().message;
  std::map<std::string, CpioEntry> files;
  for (const CpioEntry& entry : *entries) files[std::string(entry.path)] = entry;
  EXPECT_EQ(files["init"].content, fake::kernel("", "the agent"));
  EXPECT_EQ(files["init"].mode, S_IFREG | 0755U);
  EXPECT_EQ(files["dev/console"].mode, S_IFCHR | 0600U);
  EXPECT_EQ(files["dev/console"].major, 5U);
  EXPECT_EQ(files["dev/console"].minor, 1U);
  EXPECT_EQ(files["dev/kmsg"].mode, S_IFCHR | 0600U);
  EXPECT_EQ(files["dev/kmsg"].major, 1U);
  EXPECT_EQ(files["dev/kmsg"].minor, 11U);
  EXPECT_EQ(files["lib/modules"].mode, S_IFDIR | 0755U);
  EXPECT_EQ(files["lib/modules/load"].content,
            "/lib/modules/virtio_ring.ko\n/lib/modules/virtio.ko\n/lib/modules/virtio_mmio.ko\n"
            "/lib/modules/crc.ko\n/lib/modules/fuse.ko\n");
  EXPECT_EQ(files["lib/modules/crc.ko"].content, fake::module("depends=built-in\0"s));
  const Json manifest = *parse_json(*read_file(path("image/manifest.json")));
  EXPECT_EQ(manifest["kernel"]["release"], kRelease);
  EXPECT_EQ(manifest["kernel"]["options"]["FUSE_FS"], "m");
  EXPECT_EQ(manifest["files"]["vmlinux"]["sha256"], sha256_hex(fake::good_kernel()));
  EXPECT_EQ(manifest["files"]["initramfs.cpio"]["sha256"], sha256_hex(archive));
  EXPECT_EQ(manifest["files"]["initramfs.cpio"]["size"], archive.size());
}

TEST_F(GuestParts, DriversOfDisksAreThereForWhenTheyAreNeeded) {
  write_module("kernel/drivers/block/virtio_blk.ko", "depends=virtio\0"s);
  write_module("kernel/fs/erofs/erofs.ko", "alias=fs-erofs\0alias=of:N*\0depends=crc,lz\0"s);
  write_module("kernel/fs/squashfs/squashfs.ko", "depends=lz\0"s);
  write_module("kernel/lib/lz.ko", "depends=\0"s);
  ASSERT_TRUE(build());
  const std::string archive = *read_file(path("image/initramfs.cpio"));
  const auto entries = read_cpio(archive);
  ASSERT_TRUE(entries) << entries.error().message;
  std::map<std::string, std::string> files;
  for (const CpioEntry& entry : *entries) files[std::string(entry.path)] = entry.content;
  // What is loaded at boot is not repeated; what is only needed by others is there for itself too.
  EXPECT_EQ(files["lib/modules/on-demand/table"],
            "erofs fs_erofs: lz.ko.gz erofs.ko.gz\n"
            "lz: lz.ko.gz\n"
            "squashfs: lz.ko.gz squashfs.ko.gz\n"
            "virtio_blk: virtio_blk.ko\n");
  EXPECT_EQ(files["lib/modules/on-demand/virtio_blk.ko"], fake::module("depends=virtio\0"s));
  const std::string& packed = files["lib/modules/on-demand/lz.ko.gz"];
  EXPECT_EQ(*decompress(Compression::kGzip, as_bytes(packed), 1U << 20),
            fake::module("depends=\0"s));
  EXPECT_EQ(files["lib/modules/load"].find("erofs"), std::string::npos);
  const KernelIdentity source = {
      {"file", fmt::format("vmlinuz-{}", kRelease)},
      {"sha256", sha256_hex(fake::bzimage(fake::good_kernel()))},
  };
  const auto parts = read_image_parts(build_.output, source);
  ASSERT_TRUE(parts);
  EXPECT_EQ(*make_initramfs(*parts), archive);
}

TEST_F(GuestParts, ModulesThatWouldEachLikeTheOtherFirstAreBothThere) {
  write_module("kernel/a.ko", "softdep=pre: bridge\0depends=\0"s);
  write_module("kernel/net/bridge.ko", "softdep=pre: a\0alias=rtnl-link-bridge\0depends=\0"s);
  ASSERT_TRUE(build());
  const Json manifest = *parse_json(*read_file(path("image/manifest.json")));
  EXPECT_EQ(manifest["kernel"]["onDemand"]["a"]["files"], Json::array({"a.ko.gz"}));
  EXPECT_EQ(manifest["kernel"]["onDemand"]["bridge"]["files"],
            Json::array({"a.ko.gz", "bridge.ko.gz"}));
  EXPECT_EQ(manifest["kernel"]["onDemand"]["bridge"]["aliases"], Json::array({"rtnl_link_bridge"}));
}

TEST_F(GuestParts, SameInputGivesTheSameBytes) {
  ASSERT_TRUE(build());
  const std::string first = *read_file(path("image/initramfs.cpio"));
  ASSERT_TRUE(build());
  EXPECT_EQ(*read_file(path("image/initramfs.cpio")), first);
}

TEST_F(GuestParts, ImageIsTakenApartAgainForAnotherAgent) {
  ASSERT_TRUE(build());
  const KernelIdentity source = {
      {"file", fmt::format("vmlinuz-{}", kRelease)},
      {"sha256", sha256_hex(fake::bzimage(fake::good_kernel()))},
  };
  const auto parts = read_image_parts(build_.output, source);
  ASSERT_TRUE(parts);
  EXPECT_EQ(parts->kernel, fake::good_kernel());
  EXPECT_EQ(parts->agent, fake::kernel("", "the agent"));
  EXPECT_EQ(names_of(parts->modules),
            (std::vector<std::string>{"virtio_ring", "virtio", "virtio_mmio", "crc", "fuse"}));
  const std::string initramfs = *make_initramfs(*parts);
  EXPECT_EQ(initramfs, *read_file(path("image/initramfs.cpio")));
  EXPECT_EQ(manifest_of(*parts, initramfs), *read_file(path("image/manifest.json")));
  EXPECT_FALSE(read_image_parts(build_.output, {{"package", "another"}}));
  std::string damaged = fake::good_kernel();
  damaged.back() = '!';
  write("image/vmlinux", damaged);
  EXPECT_FALSE(read_image_parts(build_.output, source));
}

TEST_F(GuestParts, FailedBuildLeavesTheOldImage) {
  ASSERT_TRUE(build());
  const std::string before = *read_file(path("image/manifest.json"));
  write("agent", "not ELF");
  EXPECT_EQ(failure(), fmt::format("guest agent `{}`: not an ELF file", path("agent")));
  EXPECT_EQ(*read_file(path("image/manifest.json")), before);
  // And nothing beside it.
  for (const auto& entry : fs::directory_iterator(directory_->path()))
    EXPECT_FALSE(entry.path().filename().string().starts_with(".")) << entry.path();
}

TEST_F(GuestParts, ForeignDirectoryIsNotReplaced) {
  write("image/precious", "x");
  EXPECT_NE(failure().find("it has `precious` in it"), std::string::npos);
  EXPECT_TRUE(fs::exists(path("image/precious")));
}

TEST_F(GuestParts, DynamicAgentIsRefused) {
  std::string agent = fake::kernel("", "x");
  const uint32_t type = PT_INTERP;
  std::memcpy(agent.data() + sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr), &type, sizeof(type));
  write("agent", agent);
  EXPECT_NE(failure().find("it is not static"), std::string::npos);
}

TEST_F(GuestParts, MissingOptionsAreNamedTogether) {
  write(fmt::format("boot/config-{}", kRelease), "CONFIG_PVH=y\n");
  const std::string message = failure();
  EXPECT_NE(message.find("kernel 6.1.0-test cannot be a guest's: it lacks CONFIG_BLK_DEV_INITRD, "),
            std::string::npos)
      << message;
  EXPECT_NE(message.find("CONFIG_VIRTIO_FS"), std::string::npos);
}

TEST_F(GuestParts, ModulesOfAnotherKernelAreRefused) {
  fs::rename(path("lib/modules/"s + kRelease), path("lib/modules/6.2.0-other"));
  EXPECT_NE(failure().find("the modules are of kernel 6.2.0-other, the kernel is 6.1.0-test"),
            std::string::npos);
}

TEST_F(GuestParts, NeededModulesWithoutADirectoryAreAnError) {
  build_.modules.clear();
  EXPECT_NE(failure().find("name their directory with --modules"), std::string::npos);
}

TEST_F(GuestParts, OpenedImageIsChecked) {
  ASSERT_TRUE(build());
  ASSERT_TRUE(open_guest_image(build_.output));
  ASSERT_EQ(truncate(path("image/initramfs.cpio").c_str(), 4000), 0);
  auto image = open_guest_image(build_.output);
  ASSERT_FALSE(image);
  EXPECT_NE(image.error().message.find("initramfs.cpio`: has 4000 bytes"), std::string::npos);
  ASSERT_TRUE(build());
  for (const off_t size : {off_t{0}, off_t{10}, off_t{100}, off_t{250}}) {
    ASSERT_EQ(truncate(path("image/vmlinux").c_str(), size), 0);
    image = open_guest_image(build_.output);
    ASSERT_FALSE(image) << size;
    EXPECT_NE(image.error().message.find("image/vmlinux"), std::string::npos);
  }
}

TEST_F(GuestParts, ImageWithoutAManifestIsTakenAsItIs) {
  ASSERT_TRUE(build());
  fs::remove(path("image/manifest.json"));
  EXPECT_TRUE(open_guest_image(build_.output));
}

TEST_F(GuestParts, ConfiguredDirectoryIsTheOnlyOneLookedAt) {
  Config config;
  config.guest.directory = path("nowhere");
  const auto image = find_guest_image(config);
  ASSERT_FALSE(image);
  EXPECT_NE(image.error().message.find(path("nowhere") + "/vmlinux"), std::string::npos);
}

TEST(Cpio, DamagedArchiveIsAnError) {
  ImageParts parts;
  parts.agent = "agent";
  parts.modules = {{"m", "content", {}}};
  const std::string whole = *make_initramfs(parts);
  ASSERT_TRUE(read_cpio(whole));
  for (size_t size = 0; size < whole.size(); size += 3)
    EXPECT_FALSE(read_cpio(std::string_view(whole).substr(0, size))) << size;
  std::string damaged = whole;
  damaged.replace(94, 8, "ffffffff");  // the name's size
  EXPECT_FALSE(read_cpio(damaged));
}

TEST(Modules, NamesAreTheKernels) {
  EXPECT_EQ(module_name("kernel/net/nf-nat.ko.xz"), "nf_nat");
  EXPECT_EQ(module_name("a.ko"), "a");
  EXPECT_EQ(module_name("a.ko.zst"), "a");
  EXPECT_EQ(module_name("a.kod"), "");
  EXPECT_EQ(module_name("Makefile"), "");
}

}  // namespace
}  // namespace kiln::runtime
