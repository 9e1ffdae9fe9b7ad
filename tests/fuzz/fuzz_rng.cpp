// SPDX-License-Identifier: Apache-2.0
// A guest that asks for random bytes in every way, with and without a rate limit.
#include <cstdlib>

#include "tests/fuzz/hostile_driver.h"
#include "vmm/virtio/rng/rng_device.h"

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer names it
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using kiln::vmm::RngDevice;
  kiln::ByteReader input(std::as_bytes(std::span(data, size)));
  kiln::vmm::RateLimiterConfig limit;
  // Bytes in the bucket; none is no limit.
  limit.bandwidth = {.size = input.read<uint8_t>().value_or(0) * uint64_t{64}, .refill_time_ms = 1};
  auto loop = kiln::EventLoop::create();
  auto device = RngDevice::create(**loop, limit);
  if (!device) abort();
  kiln::vmm::HostileDriver driver(**loop, **device, 0);
  driver.run(input, [&](uint8_t, kiln::ByteReader&) {
    const auto metrics = (*device)->metrics();
    if (metrics.failed_requests > metrics.requests) abort();
    if (metrics.bytes_to_guest > metrics.requests * RngDevice::kMaxRequest) abort();
    if (metrics.bytes_from_guest != 0) abort();
  });
  return 0;
}
