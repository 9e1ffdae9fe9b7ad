// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/cpuid.h"

#include <algorithm>
#include <bit>

namespace kiln::vmm {
namespace {

// Intel SDM vol. 2 "CPUID", AMD APM vol. 3 appendix E; 0x4000_0000 and up: Linux's
// Documentation/virt/kvm/x86/cpuid.rst, and 0x4000_0010 as VMware and KVM's peers have it.
constexpr uint32_t kHypervisorBase = 0x4000'0000;
constexpr uint32_t kKvmFeatures = 0x4000'0001;
constexpr uint32_t kTimingLeaf = 0x4000'0010;
constexpr uint32_t kLocalApicKhz = 1'000'000;  // KVM's APIC timer counts nanoseconds

constexpr uint32_t bit(unsigned number) { return 1U << number; }

// Bits of leaf 1.
constexpr uint32_t kEcxMonitor = bit(3);
constexpr uint32_t kEcxVmx = bit(5);
constexpr uint32_t kEcxPdcm = bit(15);
constexpr uint32_t kEcxX2apic = bit(21);
constexpr uint32_t kEcxTscDeadline = bit(24);
constexpr uint32_t kEcxHypervisor = bit(31);
constexpr uint32_t kEdxHtt = bit(28);
// Of leaf 0x8000_0001.
constexpr uint32_t kEcxCmpLegacy = bit(1);
constexpr uint32_t kEcxSvm = bit(2);
constexpr uint32_t kEcxPerfCounters = bit(23) | bit(24) | bit(28);
// Of leaf 0x4000_0001: wants an I/O APIC that knows of it.
constexpr uint32_t kMsiExtendedDestination = bit(15);

// How many bits of an APIC id number the vCPUs.
unsigned id_bits(unsigned vcpus) { return static_cast<unsigned>(std::bit_width(vcpus - 1)); }

void set_leaf_1(kvm_cpuid_entry2& entry, unsigned index, const CpuidOptions& options) {
  entry.ecx |= kEcxHypervisor | kEcxX2apic;
  entry.ecx &= ~(kEcxMonitor | kEcxPdcm);
  if (options.tsc_deadline) entry.ecx |= kEcxTscDeadline;
  if (!options.nested) entry.ecx &= ~kEcxVmx;
  // The initial APIC id, and how many ids the package has.
  entry.ebx = (entry.ebx & 0x0000'ffff) | index << 24 | 1U << (16 + id_bits(options.vcpus));
  entry.edx = options.vcpus > 1 ? entry.edx | kEdxHtt : entry.edx & ~kEdxHtt;
}

// Leaves 0xb and 0x1f: a thread level of one, then a core level with every vCPU.
void set_topology(kvm_cpuid_entry2& entry, unsigned index, const CpuidOptions& options) {
  constexpr uint32_t kThread = 1;
  constexpr uint32_t kCore = 2;
  entry.eax = entry.ebx = 0;
  entry.ecx = entry.index;
  entry.edx = index;
  if (entry.index == 0) {
    entry.ebx = 1;
    entry.ecx |= kThread << 8;
  } else if (entry.index == 1) {
    entry.eax = id_bits(options.vcpus);
    entry.ebx = options.vcpus;
    entry.ecx |= kCore << 8;
  }
}

// Intel's cache leaf: first and second level are a core's, the third is the package's.
void set_caches(kvm_cpuid_entry2& entry, const CpuidOptions& options) {
  const uint32_t type = entry.eax & 0x1f;
  if (type == 0) return;
  const uint32_t level = entry.eax >> 5 & 0x7;
  const uint32_t ids = 1U << id_bits(options.vcpus);
  const uint32_t sharing = level >= 3 ? ids - 1 : 0;
  entry.eax = (entry.eax & 0x3fff) | sharing << 14 | (ids - 1) << 26;
}

// AMD's cache leaf, likewise.
void set_amd_caches(kvm_cpuid_entry2& entry, const CpuidOptions& options) {
  if ((entry.eax & 0x1f) == 0) return;
  const uint32_t sharing = (entry.eax >> 5 & 0x7) >= 3 ? options.vcpus - 1 : 0;
  entry.eax = (entry.eax & 0x3fff) | sharing << 14;
}

void adapt(kvm_cpuid_entry2& entry, unsigned index, const CpuidOptions& options) {
  switch (entry.function) {
    case 0x1:
      return set_leaf_1(entry, index, options);
    case 0x4:
      return set_caches(entry, options);
    case 0x6:
      entry.eax &= bit(2);  // the APIC timer does not stop; no turbo, no thermal sensors
      entry.ebx = 0;
      entry.ecx = 0;
      return;
    case 0xa:  // no performance counters
    case 0x8000'0022:
      entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
      return;
    case 0xb:
    case 0x1f:
      return set_topology(entry, index, options);
    case 0x8000'0001:
      entry.ecx &= ~kEcxPerfCounters;
      if (!options.nested) entry.ecx &= ~kEcxSvm;
      entry.ecx = options.vcpus > 1 ? entry.ecx | kEcxCmpLegacy : entry.ecx & ~kEcxCmpLegacy;
      return;
    case 0x8000'0008:
      // The size of the APIC id's core part, and the number of cores less one.
      entry.ecx = id_bits(options.vcpus) << 12 | (options.vcpus - 1);
      return;
    case 0x8000'000a:
      if (!options.nested) entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
      return;
    case 0x8000'001d:
      return set_amd_caches(entry, options);
    case 0x8000'001e:
      entry.eax = index;
      entry.ebx = index;  // core id; one thread a core
      entry.ecx = 0;
      return;
    case kHypervisorBase:
      entry.eax = std::max(entry.eax, options.tsc_khz != 0 ? kTimingLeaf : kKvmFeatures);
      return;
    case kKvmFeatures:
      entry.eax &= ~kMsiExtendedDestination;
      return;
    default:
      return;
  }
}

}  // namespace

std::vector<kvm_cpuid_entry2> guest_cpuid(std::span<const kvm_cpuid_entry2> supported,
                                          unsigned index, const CpuidOptions& options) {
  std::vector<kvm_cpuid_entry2> out;
  out.reserve(supported.size() + 2);
  bool has_core_level = false;
  for (kvm_cpuid_entry2 entry : supported) {
    if (entry.function == kTimingLeaf) continue;
    if (entry.function == 0xb && entry.index > 1) continue;
    has_core_level = has_core_level || (entry.function == 0xb && entry.index == 1);
    adapt(entry, index, options);
    out.push_back(entry);
  }
  const bool has_topology =
      std::any_of(out.begin(), out.end(), [](const auto& e) { return e.function == 0xb; });
  if (has_topology && !has_core_level) {
    kvm_cpuid_entry2 core{};
    core.function = 0xb;
    core.index = 1;
    core.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    set_topology(core, index, options);
    out.push_back(core);
  }
  if (options.tsc_khz != 0) {
    kvm_cpuid_entry2 timing{};
    timing.function = kTimingLeaf;
    timing.eax = options.tsc_khz;
    timing.ebx = kLocalApicKhz;
    out.push_back(timing);
  }
  return out;
}

}  // namespace kiln::vmm
