// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/fs/lock_table.h"

#include <cerrno>

namespace kiln::vmm {

int LockTable::open_for(Inode& inode, uint64_t owner, const std::string& proc_path) {
  const auto found = owners_.find({inode.id, owner});
  if (found != owners_.end()) return found->second.get();
  if (owners_.size() >= kMaxOwners) return -ENOLCK;
  // Locks for writing need a descriptor for writing; those for reading one for reading, which is
  // all there is on a mount that is read-only.
  constexpr int kFlags = O_CLOEXEC | O_NONBLOCK;
  const bool writable = !inode.entry->options.read_only;
  UniqueFd fd(open(proc_path.c_str(), (writable ? O_RDWR : O_RDONLY) | kFlags));
  if (!fd && errno == EROFS) fd.reset(open(proc_path.c_str(), O_RDONLY | kFlags));
  if (!fd) return -errno;
  const int number = fd.get();
  owners_[{inode.id, owner}] = std::move(fd);
  inodes_.acquire(inode);
  return number;
}

int LockTable::test(Inode& inode, uint64_t owner, const std::string& proc_path,
                    struct flock& lock) {
  const int fd = open_for(inode, owner, proc_path);
  if (fd < 0) return fd;
  lock.l_pid = 0;  // fcntl(2) asks for it
  return fcntl(fd, F_OFD_GETLK, &lock) == 0 ? 0 : -errno;
}

int LockTable::set(Inode& inode, uint64_t owner, const std::string& proc_path, struct flock lock) {
  if (lock.l_type == F_UNLCK && !owners_.contains({inode.id, owner})) return 0;
  const int fd = open_for(inode, owner, proc_path);
  if (fd < 0) return fd;
  lock.l_pid = 0;
  if (fcntl(fd, F_OFD_SETLK, &lock) == 0) return 0;
  return errno == EACCES ? -EAGAIN : -errno;
}

void LockTable::drop(Inode& inode, uint64_t owner) {
  if (owners_.erase({inode.id, owner}) != 0) inodes_.release(inode);
}

void LockTable::clear() { owners_.clear(); }

}  // namespace kiln::vmm
