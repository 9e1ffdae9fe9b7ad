// SPDX-License-Identifier: Apache-2.0
// A guest that prints and reads as it likes, while somebody types.
#include <cstdlib>
#include <string>

#include "tests/fuzz/hostile_driver.h"
#include "vmm/virtio/console/console_device.h"

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer names it
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using kiln::vmm::ConsoleDevice;
  kiln::ByteReader input(std::as_bytes(std::span(data, size)));
  auto loop = kiln::EventLoop::create();
  uint64_t printed = 0;
  auto device = ConsoleDevice::create(**loop, [&](std::string_view bytes) {
    if (bytes.empty() || bytes.size() > ConsoleDevice::kMaxPiece) abort();
    printed += bytes.size();
  });
  if (!device) abort();
  kiln::vmm::HostileDriver driver(**loop, **device, 0);
  uint64_t typed = 0;
  driver.run(input, [&](uint8_t choice, kiln::ByteReader&) {
    const std::string text(size_t{choice} * choice, 'x');
    const size_t taken = (*device)->type(text);
    if (taken > text.size()) abort();
    typed += taken;
    const auto metrics = (*device)->metrics();
    if (metrics.bytes_from_guest != printed || metrics.bytes_to_guest > typed) abort();
  });
  return 0;
}
