// SPDX-License-Identifier: Apache-2.0
// What to boot. Names follow Firecracker's API where it has the thing too (machine-config,
// boot-source, vsock).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/unique_fd.h"

namespace kiln::vmm {

enum class Backend { kAuto, kKvm, kQemu };

struct MachineConfig {
  unsigned vcpu_count = 1;      // 1..64
  uint64_t mem_size_mib = 256;  // at least 64
  bool nested = false;          // show the guest virtualization extensions
  bool huge_pages = false;      // memory of 2 MiB pages from the host's pool (kvm)
  unsigned spare_slots = 0;     // for devices that are attached while it runs (kvm); 0..16
};

struct BootSource {
  std::string kernel_image_path;  // ELF vmlinux with a PVH note
  std::string initrd_path;
  std::string boot_args;  // appended to what the backend itself needs
};

struct VsockConfig {
  uint32_t guest_cid = 3;
  // As Firecracker documents: a client connects to uds_path and sends "CONNECT <port>\n"; a guest's
  // connection to port P of CID 2 arrives at a listener on "<uds_path>_<P>". Not longer than 100
  // bytes is not required.
  std::string uds_path;
};

struct FsConfig {
  std::string tag;
  int vhost_user_fd =
      -1;  // connected stream socket of a vhost-user virtio-fs server; borrowed for launch
};

// A token bucket of Firecracker's rate limiters. `size` 0: no limit.
struct TokenBucketConfig {
  uint64_t size = 0;            // tokens: bytes or operations
  uint64_t one_time_burst = 0;  // more of them, once
  uint64_t refill_time_ms = 0;  // from empty to full; at least 1 with a size
};

struct RateLimiterConfig {
  TokenBucketConfig bandwidth;  // bytes
  TokenBucketConfig ops;        // requests or frames
};

struct DriveConfig {
  std::string drive_id;  // also what the guest sees as the serial number, its first 20 bytes
  int fd = -1;  // a raw image file or a block device, open as `is_read_only` says; borrowed
  bool is_read_only = false;
  RateLimiterConfig rate_limiter;
};

// An upper bound for an interface whose MTU its guest is told otherwise.
constexpr uint16_t kLargestMtu = 65535;

struct NetworkInterfaceConfig {
  std::string iface_id;
  int tap_fd = -1;        // a tap with IFF_NO_PI | IFF_VNET_HDR, attached; borrowed
  std::string guest_mac;  // xx:xx:xx:xx:xx:xx
  uint16_t mtu = 1500;
  RateLimiterConfig rx_rate_limiter;  // towards the guest
  RateLimiterConfig tx_rate_limiter;
};

struct BalloonConfig {
  bool present = false;
  uint32_t amount_mib = 0;  // to take from the guest
  bool deflate_on_oom = true;
  uint32_t stats_polling_interval_s = 0;  // 0: no statistics
  bool free_page_reporting = true;
};

struct EntropyConfig {
  bool present = false;
  RateLimiterConfig rate_limiter;
};

struct VmConfig {
  Backend backend = Backend::kAuto;
  MachineConfig machine;
  BootSource boot_source;
  VsockConfig vsock;
  std::vector<FsConfig> fs;
  std::vector<DriveConfig> drives;
  std::vector<NetworkInterfaceConfig> network_interfaces;
  // kvm backend
  BalloonConfig balloon;
  EntropyConfig entropy;
  bool console = false;  // a console device; without it the kernel's errors alone are heard
  bool start = true;     // false: wait for Vm::start()
  // qemu backend
  std::string qemu_binary;  // empty: qemu-system-x86_64 in /usr/bin
  std::string qemu_accel;   // "kvm", "tcg" or empty: kvm where it is real
};

}  // namespace kiln::vmm
