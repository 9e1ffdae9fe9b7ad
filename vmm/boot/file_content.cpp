// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/file_content.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <vector>

#include "base/file.h"
#include "base/format.h"

namespace kiln::vmm {
namespace {

constexpr uint64_t kPageSize = 4096;
constexpr uint64_t kPageMask = kPageSize - 1;
constexpr uint64_t kLargestRead = uint64_t{1} << 30;
constexpr uint64_t kChunk = 256U << 10;  // stays in the CPU's cache between read and write

bool is_zero(std::span<const std::byte> bytes) {
  static constexpr std::array<std::byte, kPageSize> kZeroes{};
  return std::memcmp(bytes.data(), kZeroes.data(), bytes.size()) == 0;
}

Result<void> check_target(const GuestMemory& memory, uint64_t address, uint64_t size) {
  if (size == 0 || memory.contains(address, size)) return {};
  return make_error(ErrorKind::kOutOfRange,
                    format("there is no memory at {:#x}+{:#x}", address, size));
}

const GuestMemory::Region* region_of(const GuestMemory& memory, uint64_t address) {
  const auto regions = memory.regions();
  const auto found = std::find_if(regions.begin(), regions.end(), [&](const auto& region) {
    return address >= region.guest_address && address - region.guest_address < region.size;
  });
  return found == regions.end() ? nullptr : &*found;
}

// Memory that is ours alone is read into straight. Its zeroes too: to look for them costs more than
// to copy them into what are huge pages anyway.
Result<void> read_straight(const FileRange& file, const GuestMemory& memory, uint64_t address,
                           Placed& placed) {
  for (uint64_t done = 0; done < file.size;) {
    const auto size = static_cast<uint32_t>(std::min(kLargestRead, file.size - done));
    const iovec part = TRY(memory.iovec_of(GuestRange{address + done, size}));
    TRY(read_exactly(file.fd, file.offset + done,
                     std::span(static_cast<std::byte*>(part.iov_base), part.iov_len)));
    done += size;
    placed.copied += size;
  }
  return {};
}

// As memory.write(). Into a memfd through its descriptor: that takes half the time, since pages are
// neither cleared first nor faulted into this process.
Result<void> write_fresh(const GuestMemory& memory, uint64_t address,
                         std::span<const std::byte> bytes) {
  const GuestMemory::Region* region = region_of(memory, address);
  // hugetlbfs has no write(2).
  if (region == nullptr || region->fd < 0 || region->page_size != kPageSize)
    return memory.write(address, bytes);
  TRY(check_target(memory, address, bytes.size()));
  uint64_t offset = region->fd_offset + (address - region->guest_address);
  while (!bytes.empty()) {
    const ssize_t put = retry_eintr(
        [&] { return pwrite(region->fd, bytes.data(), bytes.size(), static_cast<off_t>(offset)); });
    if (put <= 0) return sys_error("write guest memory", put == 0 ? EIO : errno);
    offset += static_cast<uint64_t>(put);
    bytes = bytes.subspan(static_cast<size_t>(put));
  }
  return {};
}

// Writes `bytes`, at most a chunk, to `address` but for its pages that are all zero.
Result<void> write_nonzero(const GuestMemory& memory, uint64_t address,
                           std::span<const std::byte> bytes, Placed& placed) {
  size_t run = 0;  // where the pages that are still to be written begin
  size_t at = 0;
  const auto flush = [&]() -> Result<void> {
    if (at == run) return {};
    TRY(write_fresh(memory, address + run, bytes.subspan(run, at - run)));
    placed.copied += at - run;
    return {};
  };
  while (at < bytes.size()) {
    const size_t size =
        std::min<size_t>(kPageSize - ((address + at) & kPageMask), bytes.size() - at);
    if (is_zero(bytes.subspan(at, size))) {
      TRY(flush());
      run = at + size;
      placed.zero += size;
    }
    at += size;
  }
  return flush();
}

}  // namespace

Result<uint64_t> regular_file_size(int fd) {
  struct stat status {};
  if (fstat(fd, &status) != 0) return sys_error("stat");
  if (!S_ISREG(status.st_mode)) return invalid_argument("not a regular file");
  return static_cast<uint64_t>(status.st_size);
}

Result<void> read_exactly(int fd, uint64_t offset, std::span<std::byte> out) {
  while (!out.empty()) {
    const ssize_t got =
        retry_eintr([&] { return pread(fd, out.data(), out.size(), static_cast<off_t>(offset)); });
    if (got < 0) return sys_error("read");
    if (got == 0)
      return make_error(ErrorKind::kDataLoss, format("the file ends before {:#x}", offset));
    offset += static_cast<uint64_t>(got);
    out = out.subspan(static_cast<size_t>(got));
  }
  return {};
}

Result<void> copy_file(const FileRange& file, const GuestMemory& memory, uint64_t address,
                       Placed& placed) {
  TRY(check_target(memory, address, file.size));
  const GuestMemory::Region* region = region_of(memory, address);
  if (region != nullptr && region->fd < 0) return read_straight(file, memory, address, placed);
  std::vector<std::byte> buffer(std::min(kChunk, file.size));
  for (uint64_t done = 0; done < file.size;) {
    const std::span<std::byte> chunk = std::span(buffer).first(std::min(kChunk, file.size - done));
    TRY(read_exactly(file.fd, file.offset + done, chunk));
    TRY(write_nonzero(memory, address + done, chunk, placed));
    done += chunk.size();
  }
  return {};
}

Result<void> map_file(const FileRange& file, const GuestMemory& memory, uint64_t address,
                      Placed& placed) {
  TRY(check_target(memory, address, file.size));
  const uint64_t head = -address & kPageMask;
  if ((address & kPageMask) != (file.offset & kPageMask) || file.size < head + kPageSize)
    return copy_file(file, memory, address, placed);
  const uint64_t middle = (file.size - head) & ~kPageMask;
  if (head != 0) TRY(copy_file(file.sub(0, head), memory, address, placed));
  TRY(memory.map_private(address + head, file.fd, file.offset + head, middle));
  placed.mapped += middle;
  const uint64_t done = head + middle;
  if (done == file.size) return {};
  return copy_file(file.sub(done, file.size - done), memory, address + done, placed);
}

}  // namespace kiln::vmm
