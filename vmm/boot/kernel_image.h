// SPDX-License-Identifier: Apache-2.0
// An ELF kernel with a PVH entry point (elf(5), Xen's docs/misc/pvh.pandoc) and how it gets into
// guest memory. The file may be the user's own: every number in it is checked.
#pragma once

#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/error.h"
#include "vmm/boot/file_content.h"
#include "vmm/memory/guest_memory.h"

namespace kiln::vmm {

// What of a kernel is mapped copy-on-write instead of copied. Each includes those before it.
enum class KernelMapping {
  kNone,
  // Code and constants, which Linux never gives to its page allocator. What it does give away (init
  // sections, the gaps between sections) becomes page cache, and a vhost-user back-end that writes
  // there would write to the memfd behind our private pages.
  kNeverFreed,
  kAll,
};

// The most that is right for this memory: kAll if it is ours alone, kNeverFreed for a memfd, kNone
// for huge pages.
KernelMapping largest_mapping(const GuestMemory& memory);

class KernelImage {
 public:
  static constexpr unsigned kMaxProgramHeaders = 64;
  static constexpr unsigned kMaxSections = 1024;
  static constexpr uint64_t kMaxNotes = 64U << 10;          // bytes of a PT_NOTE segment
  static constexpr uint64_t kMaxSectionNames = 256U << 10;  // bytes

  // `fd` is borrowed and must stay open as long as the image. kInvalidArgument for what is no such
  // kernel, kDataLoss for a truncated one.
  static Result<KernelImage> read(int fd);

  uint32_t entry() const { return entry_; }  // guest-physical, for the 32-bit PVH entry
  uint64_t start() const { return segments_.front().address; }
  uint64_t end() const;  // behind the last segment's bss

  // Into memory that nothing was written to yet; kOutOfRange if it has no RAM there. Not more is
  // mapped than largest_mapping() allows.
  Result<Placed> load(const GuestMemory& memory, KernelMapping at_most = KernelMapping::kAll) const;

 private:
  struct Segment {
    uint64_t address = 0;  // guest-physical
    uint64_t size = 0;     // in memory
    FileRange file;
  };
  struct Section {
    FileRange file;
    bool constants = false;  // .rodata
  };

  explicit KernelImage(int fd) : fd_(fd) {}
  Result<void> read_program_headers();
  Result<void> add_segment(size_t index, const Elf64_Phdr& header);
  Result<void> check_segments();
  Result<void> read_notes(const FileRange& notes, uint64_t alignment);
  Result<void> read_sections();
  Result<std::vector<FileRange>> never_freed() const;
  Result<void> load_segment(const Segment& segment, const std::vector<FileRange>& mappable,
                            const GuestMemory& memory, Placed& placed) const;

  int fd_;
  uint64_t file_size_ = 0;
  bool has_entry_ = false;
  uint32_t entry_ = 0;
  std::vector<Segment> segments_;  // by address; at least one
  std::vector<Section> sections_;  // .text and .rodata, by offset, apart from each other
};

}  // namespace kiln::vmm
