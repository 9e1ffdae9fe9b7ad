// SPDX-License-Identifier: Apache-2.0
#include "agent/guest/slots.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "agent/guest/network_devices.h"
#include "base/file.h"
#include "base/temporary_directory.h"

namespace kiln::agent {
namespace {

namespace fs = std::filesystem;

// sysfs of a guest with three slots: a network interface, a disk, and one that was empty.
class SlotsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    sys_ = fs::path(directory_.path()) / "sys";
    fs::create_directories(sys_ / "bus/platform/devices/PNP0501:00");
    fs::create_directories(sys_ / "bus/platform/drivers/virtio-mmio");
    for (const char* file : {"bind", "unbind"})
      std::ofstream(sys_ / "bus/platform/drivers/virtio-mmio" / file) << "";
    for (const char* slot : {"LNRO0005:00", "LNRO0005:01", "LNRO0005:02"})
      fs::create_directories(sys_ / "bus/platform/devices" / slot);
    put_device("LNRO0005:00", "virtio0", "virtio_net", "class/net/eth0");
    put_device("LNRO0005:02", "virtio1", "virtio_blk", "block/vda");
    fs::create_directories(sys_ / "class/net/lo");
  }
  void put_device(const std::string& slot, const std::string& device, const std::string& driver,
                  const std::string& user) {
    const fs::path platform = sys_ / "bus/platform/devices" / slot;
    fs::create_directory_symlink("../../drivers/virtio-mmio", platform / "driver");
    fs::create_directories(platform / device);
    fs::create_directory_symlink("../../../../virtio/drivers/" + driver,
                                 platform / device / "driver");
    fs::create_directories(sys_ / user);
    fs::create_directory_symlink(platform / device, sys_ / user / "device");
  }
  std::string written(const char* file) const {
    return *read_file((sys_ / "bus/platform/drivers/virtio-mmio" / file).native(), 4096);
  }

  TemporaryDirectory directory_ = *TemporaryDirectory::create(testing::TempDir(), "kiln-slots-");
  fs::path sys_;
};

TEST_F(SlotsTest, GivesDriversToWhatHasNone) {
  Slots(sys_.native()).bind_all();
  EXPECT_EQ(written("bind"), "LNRO0005:01");
}

TEST_F(SlotsTest, ADeviceGivesItsSlotUp) {
  ASSERT_TRUE(Slots(sys_.native()).release((sys_ / "block/vda/device").native()));
  EXPECT_EQ(written("unbind"), "LNRO0005:02");
}

TEST_F(SlotsTest, WhatIsInNoSlotCannotBeReleased) {
  const auto released = Slots(sys_.native()).release((sys_ / "block/vdb/device").native());
  ASSERT_FALSE(released);
  EXPECT_EQ(released.error().kind, ErrorKind::kNotFound);
}

TEST_F(SlotsTest, AnInterfaceGoesWithItsSlot) {
  ASSERT_TRUE(NetworkDevices(sys_.native()).unbind("eth0"));
  EXPECT_EQ(written("unbind"), "LNRO0005:00");
}

TEST_F(SlotsTest, AnInterfaceWithoutADeviceIsKnown) {
  const NetworkDevices devices(sys_.native());
  EXPECT_TRUE(devices.is_device("eth0"));
  EXPECT_FALSE(devices.is_device("lo"));
  EXPECT_FALSE(devices.unbind("lo"));
}

}  // namespace
}  // namespace kiln::agent
