// SPDX-License-Identifier: Apache-2.0
#include "agent/guest/network_devices.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "base/temporary_directory.h"

namespace kiln::agent {
namespace {

namespace fs = std::filesystem;

void put(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path) << text;
}

// sysfs of a guest with two slots and their devices: one drives eth0, the other is idle.
class NetworkDevicesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    sys_ = fs::path(directory_.path()) / "sys";
    for (const char* slot : {"LNRO0005:00", "LNRO0005:01"})
      fs::create_directories(sys_ / "bus/platform/devices" / slot);
    fs::create_directories(sys_ / "bus/platform/devices/PNP0501:00");
    put(sys_ / "bus/platform/drivers/virtio-mmio/bind", "");
    for (const char* device : {"virtio0", "virtio1"})
      put(sys_ / "bus/virtio/devices" / device / "device", "0x0001\n");
    put(sys_ / "bus/virtio/devices/virtio2/device", "0x0002\n");
    put(sys_ / "bus/virtio/drivers/virtio_net/bind", "");
    put(sys_ / "bus/virtio/drivers/virtio_net/unbind", "");
    fs::create_directory_symlink("../../drivers/virtio-mmio",
                                 sys_ / "bus/platform/devices/LNRO0005:00/driver");
    fs::create_directory_symlink("../../drivers/virtio_net",
                                 sys_ / "bus/virtio/devices/virtio0/driver");
    fs::create_directories(sys_ / "class/net/eth0");
    fs::create_directory_symlink("../../../bus/virtio/devices/virtio0",
                                 sys_ / "class/net/eth0/device");
    fs::create_directories(sys_ / "class/net/lo");
  }
  std::string content(const char* path) const { return *read_file((sys_ / path).native(), 4096); }

  TemporaryDirectory directory_ = *TemporaryDirectory::create(testing::TempDir(), "kiln-network-");
  fs::path sys_;
};

TEST_F(NetworkDevicesTest, GivesDriversToWhatHasNone) {
  NetworkDevices(sys_.native()).bind_all();
  EXPECT_EQ(content("bus/platform/drivers/virtio-mmio/bind"), "LNRO0005:01");
  EXPECT_EQ(content("bus/virtio/drivers/virtio_net/bind"), "virtio1");
}

TEST_F(NetworkDevicesTest, TakesTheDriverFromTheDeviceOfAnInterface) {
  ASSERT_TRUE(NetworkDevices(sys_.native()).unbind("eth0"));
  EXPECT_EQ(content("bus/virtio/drivers/virtio_net/unbind"), "virtio0");
}

TEST_F(NetworkDevicesTest, KnowsAnInterfaceWithoutADevice) {
  const NetworkDevices devices(sys_.native());
  EXPECT_TRUE(devices.is_device("eth0"));
  EXPECT_FALSE(devices.is_device("lo"));
  const auto unbound = devices.unbind("lo");
  ASSERT_FALSE(unbound);
  EXPECT_EQ(unbound.error().message, "no device behind `lo`");
}

}  // namespace
}  // namespace kiln::agent
