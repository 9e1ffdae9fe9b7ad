// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/initramfs.h"

#include <algorithm>

#include "base/format.h"
#include "vmm/boot/kernel_image.h"
#include "vmm/kvm/layout.h"

namespace kiln::vmm {
namespace {

constexpr uint64_t kPageMask = 4095;

Result<Initramfs> place(int fd, const GuestMemory& memory, uint64_t kernel_end) {
  Initramfs out;
  out.size = TRY(regular_file_size(fd));
  if (out.size == 0) return invalid_argument("the file is empty");
  const uint64_t lowest = std::max(kernel_end, layout::kHighMemory);
  const uint64_t low_end = memory.contiguous(0, layout::kHoleStart) & ~kPageMask;
  const uint64_t room = lowest < low_end ? low_end - lowest : 0;
  // In this order: rounding a file's size up before it is known to be small could wrap.
  if (out.size > room || ((out.size + kPageMask) & ~kPageMask) > room)
    return make_error(ErrorKind::kOutOfRange,
                      format("{} bytes do not fit into the {} behind the kernel", out.size, room));
  out.address = low_end - ((out.size + kPageMask) & ~kPageMask);
  const FileRange file{fd, 0, out.size};
  if (largest_mapping(memory) == KernelMapping::kAll)
    TRY(map_file(file, memory, out.address, out.placed));
  else
    TRY(copy_file(file, memory, out.address, out.placed));
  return out;
}

}  // namespace

Result<Initramfs> load_initramfs(int fd, const GuestMemory& memory, uint64_t kernel_end) {
  return wrap(place(fd, memory, kernel_end), "load the initramfs");
}

}  // namespace kiln::vmm
