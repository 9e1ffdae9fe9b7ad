// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/rate_limiter.h"

#include <gtest/gtest.h>

namespace kiln::vmm {
namespace {

constexpr int64_t kMs = 1'000'000;

RateLimiter bytes_per_100_ms(uint64_t size, uint64_t burst = 0) {
  RateLimiterConfig config;
  config.bandwidth = {size, burst, 100};
  return RateLimiter(config);
}

TEST(RateLimiter, WithoutAConfigurationNeverRefuses) {
  RateLimiter limiter;
  EXPECT_FALSE(limiter.limits());
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(limiter.take(UINT64_MAX, 0));
  EXPECT_EQ(limiter.hits(), 0U);
}

TEST(RateLimiter, LetsABucketThroughAndThenRefuses) {
  RateLimiter limiter = bytes_per_100_ms(1000);
  EXPECT_TRUE(limiter.take(600, 0));
  EXPECT_TRUE(limiter.take(400, 0));
  EXPECT_FALSE(limiter.take(1, 0));
  EXPECT_EQ(limiter.hits(), 1U);
}

TEST(RateLimiter, RefillsInProportionToTime) {
  RateLimiter limiter = bytes_per_100_ms(1000);
  EXPECT_TRUE(limiter.take(1000, 0));
  EXPECT_FALSE(limiter.take(1, 0));
  EXPECT_EQ(limiter.wait_ns(0), kMs / 10);
  EXPECT_TRUE(limiter.take(1, kMs / 10));
  EXPECT_FALSE(limiter.take(1, kMs / 10));
}

TEST(RateLimiter, KeepsTheLongRunRateWhenAskedOften) {
  RateLimiter limiter = bytes_per_100_ms(1000);
  uint64_t passed = 0;
  for (int64_t now = 0; now < 1000 * kMs; now += 7'777)
    if (limiter.take(10, now)) passed += 10;
  // One bucket at once, then 1000 bytes in each 100 ms.
  EXPECT_NEAR(static_cast<double>(passed), 11'000, 20);
}

TEST(RateLimiter, SpendsTheBurstFirstAndOnce) {
  RateLimiter limiter = bytes_per_100_ms(100, 500);
  EXPECT_TRUE(limiter.take(500, 0));
  EXPECT_TRUE(limiter.take(100, 0));
  EXPECT_FALSE(limiter.take(1, 0));
  EXPECT_TRUE(limiter.take(100, 100 * kMs));
  EXPECT_FALSE(limiter.take(1, 100 * kMs));
}

TEST(RateLimiter, LetsALargeOperationThroughAndMakesTheNextOnesPay) {
  RateLimiter limiter = bytes_per_100_ms(100);
  EXPECT_TRUE(limiter.take(1'000'000, 0));
  EXPECT_FALSE(limiter.take(1, 50 * kMs));
  EXPECT_FALSE(limiter.take(1, 99 * kMs));
  EXPECT_TRUE(limiter.take(1, 102 * kMs));
}

TEST(RateLimiter, CountsOperationsBesideBytes) {
  RateLimiterConfig config;
  config.ops = {2, 0, 100};
  RateLimiter limiter(config);
  EXPECT_TRUE(limiter.take(1 << 30, 0));
  EXPECT_TRUE(limiter.take(1 << 30, 0));
  EXPECT_FALSE(limiter.take(0, 0));
  EXPECT_TRUE(limiter.take(0, 50 * kMs));
}

TEST(RateLimiter, SurvivesExtremeSettings) {
  RateLimiterConfig config;
  config.bandwidth = {UINT64_MAX, UINT64_MAX, UINT64_MAX};
  config.ops = {1, 0, 0};
  RateLimiter limiter(config);
  EXPECT_TRUE(limiter.take(UINT64_MAX, 0));
  EXPECT_GE(limiter.wait_ns(0), 1);
  EXPECT_TRUE(limiter.take(UINT64_MAX, INT64_MAX));
}

TEST(RateLimiter, IgnoresAClockThatStandsStill) {
  RateLimiter limiter = bytes_per_100_ms(10);
  EXPECT_TRUE(limiter.take(10, 1000));
  EXPECT_FALSE(limiter.take(1, 1000));
  EXPECT_FALSE(limiter.take(1, 500));
}

}  // namespace
}  // namespace kiln::vmm
