// SPDX-License-Identifier: Apache-2.0
// A driver that writes what it likes into its rings while the device pops chains from them.
#include <cstdlib>

#include "base/bytes.h"
#include "tests/support/fake_driver.h"

namespace {

using kiln::ByteReader;
using kiln::vmm::DescriptorChain;
using kiln::vmm::FakeDriver;
using kiln::vmm::FakeGuest;
using kiln::vmm::GuestRange;

constexpr uint16_t kQueueSize = 16;
constexpr int kMaxSteps = 256;

enum Step : uint8_t { kDescriptor, kIndirect, kPublish, kIndex, kPop, kNotification, kSteps };

// What pop() promises of every chain.
void check(const FakeGuest& guest, const DescriptorChain& chain) {
  uint64_t readable = 0;
  uint64_t writable = 0;
  for (const GuestRange& range : chain.readable) {
    if (range.size == 0 || !guest.memory()->contains(range.address, range.size)) abort();
    readable += range.size;
  }
  for (const GuestRange& range : chain.writable) {
    if (range.size == 0 || !guest.memory()->contains(range.address, range.size)) abort();
    writable += range.size;
  }
  if (readable != chain.readable_size || writable != chain.writable_size) abort();
  if (chain.readable.size() + chain.writable.size() > kQueueSize) abort();
}

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer names it
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ByteReader input(std::as_bytes(std::span(data, size)));
  const auto event_idx = input.read<uint8_t>();
  FakeGuest guest;
  FakeDriver driver(guest, kQueueSize, event_idx.value_or(0) % 2 != 0);
  const uint64_t table = guest.allocate(64 * sizeof(vring_desc));
  auto queue = driver.queue();
  DescriptorChain chain;
  for (int i = 0; i < kMaxSteps; ++i) {
    const auto step = input.read<uint8_t>();
    if (!step) break;
    switch (*step % kSteps) {
      case kDescriptor: {
        const auto index = input.read<uint8_t>();
        const auto descriptor = input.read<vring_desc>();
        if (index && descriptor) driver.set_descriptor(*index % kQueueSize, *descriptor);
        break;
      }
      case kIndirect: {
        const auto index = input.read<uint8_t>();
        const auto descriptor = input.read<vring_desc>();
        if (index && descriptor) guest.put(table + (*index % 64) * sizeof(vring_desc), *descriptor);
        break;
      }
      case kPublish:
        driver.publish(input.read<uint8_t>().value_or(0));
        break;
      case kIndex:
        driver.set_available_index(input.read<uint16_t>().value_or(0));
        break;
      case kPop: {
        const auto popped = queue->pop(chain);
        // What has broken once stays broken.
        if (!popped && (!queue->broken() || queue->pop(chain))) abort();
        if (!popped || !*popped) break;
        check(guest, chain);
        if (!queue->push_used(chain.head, chain.writable_size)) abort();
        static_cast<void>(queue->needs_interrupt());
        break;
      }
      case kNotification:
        queue->set_notification(input.read<uint8_t>().value_or(0) % 2 != 0);
        static_cast<void>(queue->has_available());
        break;
      default:
        break;
    }
  }
  return 0;
}
