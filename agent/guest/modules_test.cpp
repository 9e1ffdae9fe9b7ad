// SPDX-License-Identifier: Apache-2.0
#include "agent/guest/modules.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "agent/guest/gunzip.h"
#include "agent/guest/module_request.h"
#include "base/temporary_directory.h"

namespace kiln::agent {
namespace {

namespace fs = std::filesystem;

// `no module`, as gzip has it.
constexpr char kPacked[] =
    "\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xcb\xcb\x57\xc8\xcd\x4f\x29\xcd\x49\x05"
    "\x00\x98\x42\x38\x09\x09\x00\x00\x00";
constexpr std::string_view kPackedFile(kPacked, sizeof kPacked - 1);

// No file here is a module, and this may not be root: what is to be loaded is seen by the failure.
class OptionalModulesTest : public testing::Test {
 protected:
  void SetUp() override {
    std::ofstream(directory_ / "a.ko") << "no module";
    std::ofstream(directory_ / "b.ko") << "no module";
    std::ofstream(directory_ / "packed.ko.gz") << kPackedFile;
    std::ofstream(directory_ / "table") << "a: a.ko\n"
                                           "b rtnl_link_b fs_b: a.ko b.ko\n"
                                           "gone: c.ko b.ko\n"
                                           "packed: packed.ko.gz\n";
  }
  std::string failure(std::string_view name) const {
    const auto loaded = OptionalModules(directory_).load(name);
    return loaded ? "loaded" : loaded.error().message.substr(0, loaded.error().message.find(": "));
  }
  std::string of(const char* name) const {
    return "load module `" + (directory_ / name).native() + "`";
  }
  TemporaryDirectory made_ = *TemporaryDirectory::create(testing::TempDir(), "kiln-modules-");
  const fs::path directory_ = made_.path();
};

TEST_F(OptionalModulesTest, WithoutATableThereAreNone) {
  fs::remove(directory_ / "table");
  EXPECT_EQ(failure("a"), "loaded");
  EXPECT_TRUE(OptionalModules(directory_ / "nowhere").load("a"));
}

TEST_F(OptionalModulesTest, NameThatIsNotListedIsBuiltInForAllWeKnow) {
  for (const char* name : {"erofs", "", "rtnl", ":", " ", "a.ko", "../a", "a:", "rtnl_link_b:"})
    EXPECT_EQ(failure(name), "loaded") << name;
}

TEST_F(OptionalModulesTest, WhatAModuleNeedsIsLoadedFirst) { EXPECT_EQ(failure("b"), of("a.ko")); }

TEST_F(OptionalModulesTest, AliasIsAsGoodAsAName) {
  EXPECT_EQ(failure("fs-b"), of("a.ko"));
  EXPECT_EQ(failure("rtnl-link-b"), of("a.ko"));
}

TEST_F(OptionalModulesTest, WhatIsNoLongerThereHasBeenLoaded) {
  EXPECT_EQ(failure("gone"), of("b.ko"));
  fs::remove(directory_ / "b.ko");
  EXPECT_EQ(failure("gone"), "loaded");
}

TEST_F(OptionalModulesTest, WhatCouldNotBeLoadedStays) {
  EXPECT_EQ(failure("a"), of("a.ko"));
  EXPECT_TRUE(fs::exists(directory_ / "a.ko"));
}

TEST_F(OptionalModulesTest, PackedModuleIsUnpackedFirst) {
  EXPECT_EQ(failure("packed"), of("packed.ko.gz"));
  std::ofstream(directory_ / "packed.ko.gz") << kPackedFile.substr(0, 20);
  EXPECT_EQ(failure("packed"), "unpack module `" + (directory_ / "packed.ko.gz").native() + "`");
}

TEST(Gunzip, UnpacksAFile) { EXPECT_EQ(*gunzip(kPackedFile, 9), "no module"); }

TEST(Gunzip, RefusesWhatIsDamagedOrTooLarge) {
  EXPECT_EQ(gunzip(kPackedFile, 8).error().kind, ErrorKind::kOutOfRange);
  for (size_t size = 0; size < kPackedFile.size(); ++size)
    EXPECT_FALSE(gunzip(kPackedFile.substr(0, size), 1U << 20)) << size;
  for (size_t at = kPackedFile.size() - 8; at < kPackedFile.size(); ++at) {  // sum and size
    std::string damaged(kPackedFile);
    damaged[at] = static_cast<char>(damaged[at] ^ 0x10);
    EXPECT_FALSE(gunzip(damaged, 1U << 20)) << at;
  }
  EXPECT_FALSE(gunzip(std::string(kPackedFile) + "x", 1U << 20));
}

std::optional<std::string> requested(std::vector<std::string> words) {
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  const auto name = requested_module(arguments);
  return name ? std::optional<std::string>(*name) : std::nullopt;
}

TEST(ModuleRequest, IsToldByTheKernelsCommandLineAlone) {
  EXPECT_EQ(requested({"/proc/1/exe", "-q", "--", "rtnl-link-bridge"}), "rtnl-link-bridge");
  EXPECT_EQ(requested({}), std::nullopt);
  EXPECT_EQ(requested({"kiln-agent"}), std::nullopt);
  EXPECT_EQ(requested({"/proc/1/exe", "-q", "--"}), std::nullopt);
  EXPECT_EQ(requested({"/proc/1/exe", "-q", "bridge", "--"}), std::nullopt);
  EXPECT_EQ(requested({"/proc/1/exe", "-q", "--", "a", "b"}), std::nullopt);
}

}  // namespace
}  // namespace kiln::agent
