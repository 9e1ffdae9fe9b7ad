// SPDX-License-Identifier: Apache-2.0
// The lists that KVM takes and gives: CPUID entries, MSRs, interrupt routes.
#pragma once

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace kiln::vmm {

// A list of KVM's interface: a count, four more bytes, and as many entries. Its structures in
// <linux/kvm.h> are no use: their last member holds an empty structure, which has no size in C and
// one byte in C++, so that sizes, and with them the ioctls' numbers, are others.
struct KvmListHead {
  uint32_t count = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(KvmListHead) == 8);

constexpr unsigned long kKvmGetSupportedCpuid = _IOWR(KVMIO, 0x05, KvmListHead);
constexpr unsigned long kKvmSetGsiRouting = _IOW(KVMIO, 0x6a, KvmListHead);
constexpr unsigned long kKvmSetMsrs = _IOW(KVMIO, 0x89, KvmListHead);
constexpr unsigned long kKvmSetCpuid2 = _IOW(KVMIO, 0x90, KvmListHead);

template <typename Entry>
class KvmList {
 public:
  explicit KvmList(size_t count) : storage_(sizeof(KvmListHead) + count * sizeof(Entry)) {
    set_count(count);
  }
  explicit KvmList(std::span<const Entry> entries) : KvmList(entries.size()) {
    if (!entries.empty())
      std::memcpy(storage_.data() + sizeof(KvmListHead), entries.data(), entries.size_bytes());
  }
  void* data() { return storage_.data(); }
  // As many as the kernel says that there are, but no more than there is room for.
  std::vector<Entry> entries() const {
    KvmListHead head;
    std::memcpy(&head, storage_.data(), sizeof head);
    const size_t room = (storage_.size() - sizeof head) / sizeof(Entry);
    std::vector<Entry> out(std::min<size_t>(head.count, room));
    if (!out.empty())
      std::memcpy(out.data(), storage_.data() + sizeof head, out.size() * sizeof(Entry));
    return out;
  }

 private:
  void set_count(size_t count) {
    const KvmListHead head{static_cast<uint32_t>(count), 0};
    std::memcpy(storage_.data(), &head, sizeof head);
  }
  std::vector<std::byte> storage_;
};

}  // namespace kiln::vmm
