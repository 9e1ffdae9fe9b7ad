// SPDX-License-Identifier: Apache-2.0
#include "vmm/vhost_user/forwarding.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_console.h>

#include <algorithm>
#include <cstring>

namespace kiln::vmm {
namespace {

// virtio 1.2 §5.1.3. <linux/virtio_net.h> is no C++.
enum NetFeature : unsigned {
  kNetCtrlGuestOffloads = 2,
  kNetMtu = 3,
  kNetMac = 5,
  kNetStatus = 16,
  kNetCtrlVq = 17,
  kNetCtrlRx = 18,
  kNetCtrlVlan = 19,
  kNetCtrlRxExtra = 20,
  kNetGuestAnnounce = 21,
  kNetMq = 22,
  kNetCtrlMacAddr = 23,
  kNetNotfCoal = 53,
  kNetHashReport = 57,
  kNetRss = 60,
  kNetSpeedDuplex = 63,
};

constexpr uint64_t bit(unsigned number) { return uint64_t{1} << number; }

// virtio 1.2 §2.2: bits 0 to 23 and from 50 on belong to the device type; the others are between
// driver and transport.
constexpr uint64_t kDeviceBits = (bit(24) - 1) | ~(bit(50) - 1);

// virtio 1.2 §5.1.3.1: what needs the control queue, and that queue itself.
constexpr uint64_t kNetControlBits = bit(kNetCtrlVq) | bit(kNetCtrlRx) | bit(kNetCtrlVlan) |
                                     bit(kNetCtrlRxExtra) | bit(kNetGuestAnnounce) | bit(kNetMq) |
                                     bit(kNetCtrlMacAddr) | bit(kNetCtrlGuestOffloads) |
                                     bit(kNetNotfCoal) | bit(kNetRss) | bit(kNetHashReport);
// What is announced by a field of the configuration.
constexpr uint64_t kNetConfigBits = bit(kNetMac) | bit(kNetStatus) | bit(kNetMtu) | bit(kNetMq) |
                                    bit(kNetSpeedDuplex) | bit(kNetRss) | bit(kNetHashReport);

// virtio 1.2 §5.1.4 and §5.2.4: offsets and sizes, which do not depend on how new the headers are.
constexpr unsigned kFsNotification = 0;  // VIRTIO_FS_F_NOTIFICATION, in no header yet
constexpr uint32_t kNetPairsOffset = 8;
constexpr uint32_t kBlockQueuesOffset = 34;
constexpr uint32_t kBlockSize = 60;
constexpr uint32_t kBlockSecureEraseSize = 72;

uint32_t net_config_size(uint64_t features) {
  if ((features & (bit(kNetRss) | bit(kNetHashReport))) != 0) return 24;
  if ((features & bit(kNetSpeedDuplex)) != 0) return 17;
  if ((features & bit(kNetMtu)) != 0) return 12;
  if ((features & bit(kNetMq)) != 0) return 10;
  if ((features & bit(kNetStatus)) != 0) return 8;
  return (features & bit(kNetMac)) != 0 ? 6 : 0;
}

void bound_u16(std::span<std::byte> config, size_t offset, size_t most) {
  uint16_t value = 0;
  if (config.size() < offset + sizeof value) return;
  std::memcpy(&value, config.data() + offset, sizeof value);
  value = static_cast<uint16_t>(std::clamp<size_t>(value, 1, most));
  std::memcpy(config.data() + offset, &value, sizeof value);
}

}  // namespace

uint64_t forwarded_features(DeviceType type, uint64_t offered, size_t queue_count,
                            bool has_config) {
  uint64_t features = offered & kDeviceBits;
  switch (type) {
    case DeviceType::kNet:
      // Receive and transmit queues come in pairs: an odd one is the control queue.
      if (queue_count % 2 == 0) features &= ~kNetControlBits;
      if (!has_config) features &= ~kNetConfigBits;
      break;
    case DeviceType::kBlock:
      // A field that the driver writes, for which there is no path to the back-end.
      features &= ~bit(VIRTIO_BLK_F_CONFIG_WCE);
      if (queue_count < 2) features &= ~bit(VIRTIO_BLK_F_MQ);
      break;
    case DeviceType::kConsole:
      features &= ~bit(VIRTIO_CONSOLE_F_EMERG_WRITE);  // likewise
      if (queue_count < 4 || !has_config) features &= ~bit(VIRTIO_CONSOLE_F_MULTIPORT);
      if (!has_config) features &= ~bit(VIRTIO_CONSOLE_F_SIZE);
      break;
    case DeviceType::kFs:
      // virtio 1.2 §5.11.2: the notification queue would come before the request queues.
      features &= ~bit(kFsNotification);
      break;
    case DeviceType::kEntropy:
    case DeviceType::kBalloon:
    case DeviceType::kVsock:
      break;
  }
  return features;
}

uint32_t vhost_user_config_size(DeviceType type, uint64_t features) {
  switch (type) {
    case DeviceType::kNet:
      return net_config_size(features);
    case DeviceType::kBlock:
      return (features & bit(VIRTIO_BLK_F_SECURE_ERASE)) != 0 ? kBlockSecureEraseSize : kBlockSize;
    case DeviceType::kConsole:
      return 8;  // up to max_nr_ports
    case DeviceType::kEntropy:
      return 0;
    case DeviceType::kBalloon:
      return 16;
    case DeviceType::kVsock:
      return 8;
    case DeviceType::kFs:
      return 40;  // without notify_buf_size, which has a feature that is not offered
  }
  return 0;
}

void bound_queue_numbers(DeviceType type, uint64_t features, size_t queue_count,
                         std::span<std::byte> config) {
  if (type == DeviceType::kNet && (features & bit(kNetMq)) != 0)
    bound_u16(config, kNetPairsOffset, queue_count / 2);
  if (type == DeviceType::kBlock && (features & bit(VIRTIO_BLK_F_MQ)) != 0)
    bound_u16(config, kBlockQueuesOffset, queue_count);
}

}  // namespace kiln::vmm
