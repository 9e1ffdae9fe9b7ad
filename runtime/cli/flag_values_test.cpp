// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/flag_values.h"

#include <gtest/gtest.h>

namespace kiln::runtime {
namespace {

TEST(RamBytes, TakesUnitsInPowersOf1024) {
  EXPECT_EQ(*parse_ram_bytes("512"), 512);
  EXPECT_EQ(*parse_ram_bytes("512b"), 512);
  EXPECT_EQ(*parse_ram_bytes("1k"), 1024);
  EXPECT_EQ(*parse_ram_bytes("64M"), 64 << 20);
  EXPECT_EQ(*parse_ram_bytes("64 MiB"), 64 << 20);
  EXPECT_EQ(*parse_ram_bytes("1.5g"), int64_t{3} << 29);
  EXPECT_EQ(*parse_ram_bytes("2T"), int64_t{2} << 40);
}

TEST(RamBytes, RefusesTheRest) {
  for (const char* bad : {"", "xx", "m", "-5", "5x", "5mm", "1..5", ".", "5  m", "9999999p", "5ib"})
    EXPECT_EQ(parse_ram_bytes(bad).error().message, "invalid size: '" + std::string(bad) + "'");
}

TEST(Duration, AddsItsParts) {
  EXPECT_EQ(*parse_duration_ms("5s"), 5000);
  EXPECT_EQ(*parse_duration_ms("1m30s"), 90'000);
  EXPECT_EQ(*parse_duration_ms("1.5h"), 5'400'000);
  EXPECT_EQ(*parse_duration_ms("250ms"), 250);
  EXPECT_EQ(*parse_duration_ms("1us"), 1);
  EXPECT_EQ(*parse_duration_ms("0"), 0);
  EXPECT_EQ(*parse_duration_ms("-2s"), -2000);
}

TEST(Duration, RefusesTheRest) {
  for (const char* bad : {"", "5", "s", "5x", "5s3", "-", "1e3s", "99999999999h"})
    EXPECT_FALSE(parse_duration_ms(bad)) << bad;
}

TEST(WholeNumbers, SayWhatGoWouldSay) {
  EXPECT_EQ(*parse_int64("-1"), -1);
  EXPECT_EQ(*parse_uint64("18446744073709551615"), UINT64_MAX);
  EXPECT_EQ(parse_int64("xx").error().message, "strconv.ParseInt: parsing \"xx\": invalid syntax");
  EXPECT_EQ(parse_uint64("-1").error().message,
            "strconv.ParseUint: parsing \"-1\": invalid syntax");
  EXPECT_EQ(parse_int64("9223372036854775808").error().message,
            "strconv.ParseInt: parsing \"9223372036854775808\": value out of range");
  EXPECT_FALSE(parse_int64(""));
  EXPECT_FALSE(parse_int64("5 "));
}

}  // namespace
}  // namespace kiln::runtime
