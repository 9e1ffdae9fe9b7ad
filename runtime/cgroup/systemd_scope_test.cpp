// SPDX-License-Identifier: Apache-2.0
#include "runtime/cgroup/systemd_scope.h"

#include <gtest/gtest.h>

#include <map>

namespace kiln::runtime {
namespace {

std::map<std::string, uint64_t> numbers(const std::vector<HostLimit>& limits) {
  std::map<std::string, uint64_t> out;
  for (const UnitProperty& property : limit_properties(limits))
    if (const auto* value = std::get_if<uint64_t>(&property.value)) out[property.name] = *value;
  return out;
}

std::vector<HostLimit> limits_of(bool unified) {
  oci::Resources resources;
  resources.memory = {.limit = 64 << 20, .reservation = 1 << 20, .swap = 64 << 20};
  resources.cpu = {.shares = 1024, .quota = 50000, .period = 200000, .cpus = "0-1,9"};
  resources.block_io.emplace().weight = 500;
  return host_limits(resources, {160, 40}, unified).value();
}

TEST(LimitProperties, OfV2) {
  EXPECT_EQ(numbers(limits_of(true)),
            (std::map<std::string, uint64_t>{{"MemoryMax", 200 << 20},
                                             {"MemoryLow", 137 << 20},
                                             {"MemorySwapMax", 0},
                                             {"CPUWeight", 39},
                                             {"CPUQuotaPerSecUSec", 250000},
                                             {"CPUQuotaPeriodUSec", 200000},
                                             {"IOWeight", 4950}}));
}

TEST(LimitProperties, OfV1) {
  EXPECT_EQ(numbers(limits_of(false)),
            (std::map<std::string, uint64_t>{{"MemoryLimit", 200 << 20},
                                             {"CPUShares", 1024},
                                             {"CPUQuotaPerSecUSec", 250000},
                                             {"CPUQuotaPeriodUSec", 200000},
                                             {"BlockIOWeight", 500}}));
}

TEST(LimitProperties, CpusAreBits) {
  for (const UnitProperty& property : limit_properties(limits_of(true))) {
    if (property.name == "AllowedCPUs") {
      EXPECT_EQ(std::get<std::vector<uint8_t>>(property.value), (std::vector<uint8_t>{3, 2}));
      return;
    }
  }
  FAIL() << "no AllowedCPUs";
}

TEST(LimitProperties, UnlimitedIsInfinity) {
  oci::Resources resources;
  resources.memory = {.limit = -1};
  resources.cpu = {.quota = -1};
  const auto found = numbers(host_limits(resources, {160, 40}, true).value());
  EXPECT_EQ(found.at("MemoryMax"), UINT64_MAX);
  EXPECT_EQ(found.at("CPUQuotaPerSecUSec"), UINT64_MAX);
}

TEST(LimitProperties, QuotasAreRoundedUpToSystemdsSteps) {
  oci::Resources resources;
  resources.cpu = {.quota = 33333, .period = 100000};
  EXPECT_EQ(numbers(host_limits(resources, {160, 40}, true).value()).at("CPUQuotaPerSecUSec"),
            340000U);
}

TEST(WriteProperties, AreAnArrayOfNamesAndVariants) {
  BusWriter out;
  write_properties(out, {{"A", true}, {"B", std::vector<uint32_t>{7}}});
  BusReader reader(out.bytes());
  EXPECT_EQ(reader.u32(), out.bytes().size() - 8);
  reader.align(8);
  EXPECT_EQ(reader.string(), "A");
  EXPECT_EQ(reader.signature(), "b");
  EXPECT_EQ(reader.u32(), 1U);
  reader.align(8);
  EXPECT_EQ(reader.string(), "B");
  EXPECT_EQ(reader.signature(), "au");
  EXPECT_EQ(reader.u32(), 4U);
  EXPECT_EQ(reader.u32(), 7U);
  EXPECT_FALSE(reader.failed());
}

}  // namespace
}  // namespace kiln::runtime
