// SPDX-License-Identifier: Apache-2.0
#include "agent/guest/modules.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/format.h"
#include "base/temporary_directory.h"

namespace kiln::agent {
namespace {

namespace fs = std::filesystem;

class OptionalModulesTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* file : {"a.ko", "b.ko"}) std::ofstream(directory_ / file) << "no module";
  }
  Result<OptionalModules> open(const std::string& list) {
    std::ofstream(directory_ / "list") << list;
    return OptionalModules::open(directory_ / "list");
  }
  std::string file(const char* name) { return directory_ / name; }
  TemporaryDirectory made_ = *TemporaryDirectory::create(testing::TempDir(), "kiln-modules-");
  const fs::path directory_ = made_.path();
};

TEST_F(OptionalModulesTest, WithoutAListThereAreNone) {
  auto modules = OptionalModules::open(directory_ / "missing");
  ASSERT_TRUE(modules);
  EXPECT_TRUE(modules->load("erofs"));
}

TEST_F(OptionalModulesTest, NameThatIsNotListedIsBuiltInForAllWeKnow) {
  auto modules = open(fmt::format("b: {}\n", file("b.ko")));
  ASSERT_TRUE(modules) << modules.error().message;
  EXPECT_TRUE(modules->load("erofs"));
}

TEST_F(OptionalModulesTest, FilesAreReadFromBeforeTheirDirectoryWasEmptied) {
  auto modules = open(fmt::format("b: {} {}\n\n", file("a.ko"), file("b.ko")));
  ASSERT_TRUE(modules) << modules.error().message;
  fs::remove(directory_ / "a.ko");
  const auto loaded = modules->load("b");
  ASSERT_FALSE(loaded);  // it is no module, or this is not root
  EXPECT_TRUE(loaded.error().message.starts_with("load module `" + file("a.ko") + "`: "))
      << loaded.error().message;
}

TEST_F(OptionalModulesTest, MissingFileIsNamed) {
  const auto modules = open(fmt::format("b: {}\n", file("c.ko")));
  ASSERT_FALSE(modules);
  EXPECT_NE(modules.error().message.find("c.ko"), std::string::npos);
}

}  // namespace
}  // namespace kiln::agent
