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

struct VmConfig {
  Backend backend = Backend::kAuto;
  MachineConfig machine;
  BootSource boot_source;
  VsockConfig vsock;
  std::vector<FsConfig> fs;
  // qemu backend
  std::string qemu_binary;  // empty: qemu-system-x86_64 in /usr/bin
  std::string qemu_accel;   // "kvm", "tcg" or empty: kvm where it is real
};

}  // namespace kiln::vmm
