// SPDX-License-Identifier: Apache-2.0
// What a guest's CPUID instruction says.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <span>
#include <vector>

namespace kiln::vmm {

struct CpuidOptions {
  unsigned vcpus = 1;
  uint32_t tsc_khz = 0;  // 0: not told
  bool nested = false;   // show VMX or SVM where the host has it
  bool tsc_deadline = false;
};

// From what KVM supports on this host to what vCPU `index` says: one package, a core for each
// vCPU, no performance counters, no virtualization unless asked for.
std::vector<kvm_cpuid_entry2> guest_cpuid(std::span<const kvm_cpuid_entry2> supported,
                                          unsigned index, const CpuidOptions& options);

}  // namespace kiln::vmm
