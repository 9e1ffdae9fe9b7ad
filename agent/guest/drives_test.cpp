// SPDX-License-Identifier: Apache-2.0
#include "agent/guest/drives.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/temporary_directory.h"
namespace kiln::agent {
namespace {

namespace fs = std::filesystem;

class DrivesTest : public testing::Test {
 protected:
  void SetUp() override {
    device("loop0", "rootfs");
    device("vda", "mount-1\n");
    device("vdb", "rootfs");
    fs::create_directory(directory_ / "vdc");
  }
  void device(const std::string& name, const std::string& serial) {
    fs::create_directory(directory_ / name);
    std::ofstream(directory_ / name / "serial") << serial;
  }
  TemporaryDirectory made_ = *TemporaryDirectory::create(testing::TempDir(), "kiln-drives-");
  const fs::path directory_ = made_.path();
};

TEST_F(DrivesTest, AreFoundByTheirSerialNumber) {
  EXPECT_EQ(find_drive(directory_, "rootfs").value(), "/dev/vdb");
  EXPECT_EQ(find_drive(directory_, "mount-1").value(), "/dev/vda");
}

TEST_F(DrivesTest, MissingOneIsNamed) {
  EXPECT_EQ(find_drive(directory_, "mount").error().message, "the guest finds no drive `mount`");
}

}  // namespace
}  // namespace kiln::agent
