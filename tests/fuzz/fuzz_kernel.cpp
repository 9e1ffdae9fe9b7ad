// SPDX-License-Identifier: Apache-2.0
// A kernel of the user's own, loaded into memory of this process alone and into shared memory. The
// first byte chooses; the rest is the file.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <vector>

#include "vmm/boot/initramfs.h"
#include "vmm/boot/kernel_image.h"
#include "vmm/kvm/layout.h"
#include "vmm/memory/guest_ram.h"

namespace {

using namespace kiln::vmm;
using kiln::UniqueFd;

constexpr uint64_t kRamMib = 32;

// Loaded either way, memory is the same.
void compare(const GuestMemory& a, const GuestMemory& b, uint64_t start, uint64_t end) {
  constexpr uint64_t kStep = 64U << 10;
  std::vector<std::byte> left(kStep);
  std::vector<std::byte> right(kStep);
  // A large bss is not worth the time.
  end = std::min(end, start + (1U << 20));
  for (uint64_t at = start; at < end; at += kStep) {
    const auto size = static_cast<size_t>(std::min(kStep, end - at));
    if (!a.read(at, std::span(left).first(size)) || !b.read(at, std::span(right).first(size)))
      abort();
    if (left != right) abort();
  }
}

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer names it
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const UniqueFd file(memfd_create("kernel", MFD_CLOEXEC));
  const auto length = static_cast<ssize_t>(size - 1);
  if (!file || write(file.get(), data + 1, size - 1) != length) abort();
  const auto image = KernelImage::read(file.get());
  if (!image) return 0;
  if (image->start() < layout::kHighMemory || image->entry() < image->start() ||
      image->entry() >= image->end())
    abort();
  const auto at_most = static_cast<KernelMapping>(data[0] % 3);
  GuestMemory ours;
  GuestMemory shared;
  if (!map_ram(ours, {kRamMib}) || !map_ram(shared, {kRamMib, RamOptions::Backing::kMemfd}))
    abort();
  const auto placed = image->load(ours, at_most);
  const auto placed_shared = image->load(shared, at_most);
  if (placed.has_value() != placed_shared.has_value()) abort();
  if (!placed) return 0;
  if (image->end() > kRamMib << 20) abort();
  compare(ours, shared, image->start(), image->end());
  const auto initramfs = load_initramfs(file.get(), shared, image->end());
  if (initramfs && initramfs->address < image->end()) abort();
  return 0;
}
