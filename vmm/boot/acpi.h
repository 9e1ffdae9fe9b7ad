// SPDX-License-Identifier: Apache-2.0
// The ACPI tables of a hardware-reduced machine (ACPI 6.5 §4.1): RSDP, XSDT, FADT, MADT and a DSDT
// that names the virtio-mmio slots.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/error.h"
#include "vmm/memory/guest_memory.h"

namespace kiln::vmm {

struct AcpiConfig {
  unsigned vcpus = 1;   // their APIC ids are 0, 1, …; at most 255
  unsigned slots = 0;   // virtio-mmio slots to describe, from the first on, used or not
  bool serial = false;  // a 16550 at layout::kSerialPort
};

// The tables as they must lie at layout::kAcpi; the RSDP comes first. kInvalidArgument for a
// machine that cannot be described, kOutOfRange where the tables do not fit below layout::kAcpiEnd.
Result<std::vector<std::byte>> build_acpi(const AcpiConfig& config);

// Writes them into memory. The result is the RSDP's address.
Result<uint64_t> write_acpi(const GuestMemory& memory, const AcpiConfig& config);

}  // namespace kiln::vmm
