// SPDX-License-Identifier: Apache-2.0
// The guest's POSIX record locks, held on the host by open file descriptions of their own.
#pragma once

#include <fcntl.h>

#include <cstdint>
#include <map>
#include <utility>

#include "base/unique_fd.h"
#include "vmm/virtio/fs/inode_table.h"

namespace kiln::vmm {

// A POSIX lock belongs to a process and a file, not to a descriptor; many guest processes share
// this one. So every pair of (file, guest's owner) gets an open file description here, whose locks
// conflict with all others' (fcntl(2), "Open file description locks"). Bounded; one thread.
class LockTable {
 public:
  static constexpr size_t kMaxOwners = 4096;

  explicit LockTable(InodeTable& inodes) : inodes_(inodes) {}

  // Each returns 0 or -errno. `proc_path`: of the inode's descriptor, to open it by.
  int test(Inode& inode, uint64_t owner, const std::string& proc_path, struct flock& lock);
  // -EAGAIN: held by somebody else.
  int set(Inode& inode, uint64_t owner, const std::string& proc_path, struct flock lock);
  // The owner has closed the file: POSIX gives all of its locks on it up.
  void drop(Inode& inode, uint64_t owner);
  void clear();
  size_t size() const { return owners_.size(); }

 private:
  int open_for(Inode& inode, uint64_t owner, const std::string& proc_path);

  InodeTable& inodes_;
  std::map<std::pair<uint64_t, uint64_t>, UniqueFd> owners_;  // (inode, owner)
};

}  // namespace kiln::vmm
