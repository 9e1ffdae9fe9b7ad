// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/cpuid.h"

#include <gtest/gtest.h>

namespace kiln::vmm {
namespace {

kvm_cpuid_entry2 leaf(uint32_t function, uint32_t index = 0) {
  kvm_cpuid_entry2 entry{};
  entry.function = function;
  entry.index = index;
  entry.eax = entry.ebx = entry.ecx = entry.edx = 0xffff'ffff;
  return entry;
}

kvm_cpuid_entry2 find(const std::vector<kvm_cpuid_entry2>& entries, uint32_t function,
                      uint32_t index = 0) {
  for (const kvm_cpuid_entry2& entry : entries)
    if (entry.function == function && entry.index == index) return entry;
  ADD_FAILURE() << "no leaf " << function << "." << index;
  return {};
}

TEST(GuestCpuid, SaysThatThereIsAHypervisor) {
  const std::vector host{leaf(1)};
  EXPECT_NE(find(guest_cpuid(host, 0, {}), 1).ecx & 1U << 31, 0U);
}

TEST(GuestCpuid, NumbersTheVcpusByTheirApicIds) {
  const std::vector host{leaf(1), leaf(0xb), leaf(0xb, 1), leaf(0x8000'001e)};
  CpuidOptions options;
  options.vcpus = 4;
  const auto guest = guest_cpuid(host, 3, options);
  EXPECT_EQ(find(guest, 1).ebx >> 24, 3U);
  EXPECT_EQ(find(guest, 1).ebx >> 16 & 0xff, 4U);
  EXPECT_EQ(find(guest, 0xb).edx, 3U);
  EXPECT_EQ(find(guest, 0xb, 1).eax, 2U);
  EXPECT_EQ(find(guest, 0xb, 1).ebx, 4U);
  EXPECT_EQ(find(guest, 0x8000'001e).eax, 3U);
}

TEST(GuestCpuid, AddsTheCoreLevelThatTheHostLeftOut) {
  const std::vector host{leaf(0xb)};
  CpuidOptions options;
  options.vcpus = 3;
  const auto guest = guest_cpuid(host, 2, options);
  EXPECT_EQ(find(guest, 0xb, 1).ebx, 3U);
  EXPECT_EQ(find(guest, 0xb, 1).ecx, 0x201U);
  EXPECT_EQ(find(guest, 0xb, 1).eax, 2U);
}

TEST(GuestCpuid, ShowsNoHyperthreadsOnOneVcpu) {
  const std::vector host{leaf(1)};
  EXPECT_EQ(find(guest_cpuid(host, 0, {}), 1).edx & 1U << 28, 0U);
}

TEST(GuestCpuid, HidesVirtualizationUnlessAsked) {
  const std::vector host{leaf(1), leaf(0x8000'0001), leaf(0x8000'000a)};
  CpuidOptions options;
  const auto hidden = guest_cpuid(host, 0, options);
  EXPECT_EQ(find(hidden, 1).ecx & 1U << 5, 0U);
  EXPECT_EQ(find(hidden, 0x8000'0001).ecx & 1U << 2, 0U);
  EXPECT_EQ(find(hidden, 0x8000'000a).eax, 0U);
  options.nested = true;
  const auto shown = guest_cpuid(host, 0, options);
  EXPECT_NE(find(shown, 1).ecx & 1U << 5, 0U);
  EXPECT_NE(find(shown, 0x8000'0001).ecx & 1U << 2, 0U);
  EXPECT_NE(find(shown, 0x8000'000a).eax, 0U);
}

TEST(GuestCpuid, TellsTheTscFrequencyAndThatItDoes) {
  kvm_cpuid_entry2 base{};
  base.function = 0x4000'0000;
  base.eax = 0x4000'0001;
  const std::vector host{base};
  CpuidOptions options;
  options.tsc_khz = 2'445'000;
  const auto guest = guest_cpuid(host, 0, options);
  EXPECT_EQ(find(guest, 0x4000'0000).eax, 0x4000'0010U);
  EXPECT_EQ(find(guest, 0x4000'0010).eax, 2'445'000U);
}

TEST(GuestCpuid, HasNoPerformanceCounters) {
  const std::vector host{leaf(0xa), leaf(0x8000'0022)};
  const auto guest = guest_cpuid(host, 0, {});
  EXPECT_EQ(find(guest, 0xa).eax, 0U);
  EXPECT_EQ(find(guest, 0x8000'0022).eax, 0U);
}

TEST(GuestCpuid, SharesTheLastCacheLevelAlone) {
  std::vector host{leaf(4, 0), leaf(4, 3)};
  host[0].eax = 0x21;  // data, level 1
  host[1].eax = 0x63;  // unified, level 3
  CpuidOptions options;
  options.vcpus = 4;
  const auto guest = guest_cpuid(host, 0, options);
  EXPECT_EQ(find(guest, 4, 0).eax >> 14 & 0xfff, 0U);
  EXPECT_EQ(find(guest, 4, 3).eax >> 14 & 0xfff, 3U);
}

}  // namespace
}  // namespace kiln::vmm
