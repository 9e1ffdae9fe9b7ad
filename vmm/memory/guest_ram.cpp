// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/guest_ram.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>

#include <algorithm>
#include <charconv>
#include <string>

#include "base/file.h"
#include "base/format.h"
#include "vmm/kvm/layout.h"

namespace kiln::vmm {
namespace {

using Backing = RamOptions::Backing;

constexpr uint64_t kMib = 1U << 20;
// KVM maps 2 MiB at once only where the guest's and the host's addresses agree below that.
constexpr uint64_t kLargePage = 2 * kMib;
constexpr const char* kFreeHugePages = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

Result<UniqueFd> make_memfd(uint64_t size, bool huge) {
  const unsigned flags =
      MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge ? unsigned{MFD_HUGETLB | MFD_HUGE_2MB} : 0U);
  UniqueFd file(memfd_create("guest-ram", flags));
  if (!file) return sys_error(huge ? "create guest memory of huge pages" : "create guest memory");
  if (ftruncate(file.get(), static_cast<off_t>(size)) != 0) return sys_error("size guest memory");
  // A back-end that holds the file cannot pull pages from under us: that would be a SIGBUS.
  if (fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return sys_error("seal guest memory");
  return file;
}

tl::unexpected<Error> too_few_huge_pages(uint64_t size, int sys_errno) {
  const auto text = read_file(kFreeHugePages);
  Error error{ErrorKind::kResourceExhausted, sys_errno,
              format("reserve guest memory: {} huge pages of 2 MiB are needed, {} are free",
                     size / kLargePage,
                     text ? text->substr(0, text->find('\n')) : std::string("an unknown number"))};
  return tl::unexpected(std::move(error));
}

// Address space for a region, aligned to a large page.
Result<std::byte*> reserve(uint64_t size) {
  const uint64_t room = size + kLargePage;
  void* mapping =
      mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return sys_error("reserve room for guest memory");
  auto* start = static_cast<std::byte*>(mapping);
  const uint64_t before = -reinterpret_cast<uintptr_t>(mapping) % kLargePage;
  if (before != 0) munmap(start, before);
  munmap(start + before + size, kLargePage - before);
  return start + before;
}

Result<void> map_ram_region(GuestMemory& memory, GuestMemory::Region region, Backing backing) {
  region.host = TRY(reserve(region.size));
  region.mapping = region.host;
  region.mapping_size = region.size;
  const bool huge = backing == Backing::kHugetlbfs;
  if (huge) region.page_size = kLargePage;
  const int sharing = region.fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
  // Without MAP_NORESERVE the pages of a pool are set aside now; a later lack were a SIGBUS.
  void* mapping = mmap(region.host, region.size, PROT_READ | PROT_WRITE,
                       sharing | MAP_FIXED | (huge ? 0 : MAP_NORESERVE), region.fd,
                       static_cast<off_t>(region.fd_offset));
  if (mapping == MAP_FAILED) {
    const int error = errno;
    munmap(region.host, region.size);
    if (huge && error == ENOMEM) return too_few_huge_pages(region.size, error);
    return sys_error("map guest memory", error);
  }
  // A kernel without transparent huge pages refuses, and is only slower.
  if (!huge) madvise(mapping, region.size, MADV_HUGEPAGE);
  // A core dump of ours is no place for a guest's secrets.
  madvise(mapping, region.size, MADV_DONTDUMP);
  return memory.adopt_region(region);
}

}  // namespace

Result<void> map_ram(GuestMemory& memory, const RamOptions& options) {
  if (options.size_mib == 0 || options.size_mib > RamOptions::kMaxSizeMib)
    return invalid_argument(format("{} MiB of guest memory are not supported", options.size_mib));
  const uint64_t size = options.size_mib * kMib;
  const bool huge = options.backing == Backing::kHugetlbfs;
  if (huge && size % kLargePage != 0)
    return invalid_argument(
        format("{} MiB of guest memory are no whole number of 2 MiB pages", options.size_mib));
  int fd = -1;
  if (options.backing != Backing::kAnonymous) {
    UniqueFd file = TRY(make_memfd(size, huge));
    fd = file.get();
    memory.own_file(std::move(file));
  }
  GuestMemory::Region low;
  low.size = std::min(size, layout::kHoleStart);
  low.fd = fd;
  TRY(map_ram_region(memory, low, options.backing));
  if (size == low.size) return {};
  GuestMemory::Region high;
  high.guest_address = layout::kHoleEnd;
  high.size = size - low.size;
  high.fd = fd;
  high.fd_offset = low.size;
  return map_ram_region(memory, high, options.backing);
}

}  // namespace kiln::vmm
