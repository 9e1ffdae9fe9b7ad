// SPDX-License-Identifier: Apache-2.0
// What the guest has open.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "base/unique_fd.h"
#include "vmm/virtio/fs/inode_table.h"

namespace kiln::vmm {

struct FsHandle {
  UniqueFd fd;
  Inode* inode = nullptr;  // in use as long as the handle is open; null: the synthetic root
  bool directory = false;
  // A directory's records as getdents64 gave them, from `start` on.
  std::vector<std::byte> records;
  size_t start = 0;
  int64_t next_offset = 0;  // where the record at `start` is in the directory's own terms
};

// Bounded; used by one thread.
class HandleTable {
 public:
  explicit HandleTable(size_t max_handles) : max_handles_(max_handles) {}

  bool full() const { return handles_.size() >= max_handles_; }
  // The number that the guest gets for it.
  uint64_t add(FsHandle handle) {
    handles_[next_] = std::move(handle);
    return next_++;
  }
  // Null for an unknown number, and for one of another inode.
  FsHandle* find(uint64_t number, uint64_t inode_id) {
    const auto found = handles_.find(number);
    if (found == handles_.end()) return nullptr;
    const Inode* inode = found->second.inode;
    const uint64_t id = inode == nullptr ? InodeTable::kRootId : inode->id;
    return id == inode_id ? &found->second : nullptr;
  }
  // Closes it; its inode, which the caller releases.
  Inode* remove(uint64_t number) {
    const auto found = handles_.find(number);
    if (found == handles_.end()) return nullptr;
    Inode* inode = found->second.inode;
    handles_.erase(found);
    return inode;
  }
  void clear() { handles_.clear(); }
  size_t size() const { return handles_.size(); }

 private:
  const size_t max_handles_;
  uint64_t next_ = 1;
  std::unordered_map<uint64_t, FsHandle> handles_;
};

}  // namespace kiln::vmm
