// SPDX-License-Identifier: Apache-2.0
// The PVH boot protocol: what an x86 guest is told about its machine, and the state of the CPU that
// enters its kernel (Xen's public/arch-x86/hvm/start_info.h and docs/misc/pvh.pandoc).
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <string>

#include "base/error.h"
#include "vmm/memory/guest_memory.h"

namespace kiln::vmm {

struct PvhBoot {
  std::string command_line;
  uint64_t initramfs_address = 0;
  uint64_t initramfs_size = 0;  // 0: none
  uint64_t rsdp_address = 0;    // 0: no ACPI
};

// Writes hvm_start_info to layout::kStartInfo, what it points to behind it, the command line and
// the GDT. The memory map is that of `memory`, without the legacy hole below 1 MiB and with the
// ACPI tables reserved. kInvalidArgument for a command line that is too long or holds a NUL.
Result<void> write_pvh_boot(const GuestMemory& memory, const PvhBoot& boot);

// The first CPU's state. `sregs` as KVM_GET_SREGS gave it: what PVH says nothing about is kept.
void set_pvh_state(uint32_t entry, kvm_regs& regs, kvm_sregs& sregs);

}  // namespace kiln::vmm
