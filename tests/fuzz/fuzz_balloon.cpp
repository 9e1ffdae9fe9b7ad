// SPDX-License-Identifier: Apache-2.0
// A guest that gives up, takes back and reports what pages it likes, its rings' own too.
#include <cstdlib>

#include "tests/fuzz/hostile_driver.h"
#include "vmm/virtio/balloon/balloon_device.h"

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer names it
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using kiln::vmm::BalloonDevice;
  kiln::ByteReader input(std::as_bytes(std::span(data, size)));
  const uint8_t choices = input.read<uint8_t>().value_or(0);
  kiln::vmm::BalloonOptions options;
  options.deflate_on_oom = choices % 2 != 0;
  options.free_page_reporting = choices / 2 % 2 != 0;
  options.stats_polling_interval_s = choices / 4 % 2;
  auto loop = kiln::EventLoop::create();
  auto device = BalloonDevice::create(**loop, options);
  if (!device) abort();
  kiln::vmm::HostileDriver driver(**loop, **device, (*device)->features());
  driver.run(input, [&](uint8_t choice, kiln::ByteReader&) {
    if (!(*device)->set_target_mib(choice) || (*device)->target_mib() != choice) abort();
    if ((*device)->statistics().size() > VIRTIO_BALLOON_S_NR) abort();
    uint32_t target = 0;
    (*device)->read_config(0, std::as_writable_bytes(std::span(&target, 1)));
    if (target != choice * 256U) abort();
  });
  return 0;
}
