// SPDX-License-Identifier: Apache-2.0
// The files that the guest knows, and the shares that they belong to.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>

#include "base/unique_fd.h"
#include "vmm/api/fs_server.h"
#include "vmm/virtio/fs/descriptor_closer.h"

namespace kiln::vmm {

// One name in the synthetic root. Lives as long as the guest knows a file of it.
struct FsEntry {
  std::string name;
  UniqueFd fd;  // O_PATH
  FsEntryOptions options;
  struct stat info {};
};

// A file that the guest has looked up. Its O_PATH descriptor may be closed while nobody uses it:
// then it is found again through its parent, and must be the same file.
struct Inode {
  uint64_t id = 0;
  std::shared_ptr<FsEntry> entry;
  Inode* parent = nullptr;  // null: the entry's root
  std::string name;         // in `parent`
  dev_t device = 0;
  ino_t number = 0;
  mode_t type = 0;        // S_IFMT part
  uint64_t lookups = 0;   // that the guest has not forgotten
  unsigned users = 0;     // children, open handles, locks
  bool unlinked = false;  // no name leads to it: the descriptor stays open
  UniqueFd fd;
  std::list<Inode*>::iterator place;  // in the list of open descriptors; valid while `listed`
  bool listed = false;
  // As it was when the guest last opened it: its page cache is good as long as this holds.
  timespec seen_mtime{};
  timespec seen_ctime{};
  off_t seen_size = -1;

  bool is_directory() const { return S_ISDIR(type); }
  bool is_regular() const { return S_ISREG(type); }
};

// Bounded in both respects: descriptors are closed when there are too many, and beyond
// kMaxInodes the guest gets ENFILE. Used by one thread.
class InodeTable {
 public:
  static constexpr uint64_t kRootId = 1;  // FUSE_ROOT_ID: the synthetic root, not an Inode
  static constexpr size_t kMaxInodes = 1U << 20;

  explicit InodeTable(size_t max_descriptors) : max_descriptors_(max_descriptors) {}

  // The inode of an entry's own file; made on first use. Counts a lookup.
  Inode* open_entry(const std::shared_ptr<FsEntry>& entry);
  // The inode of `fd` (O_PATH; taken), which was found as `name` in `parent`. Counts a lookup. Null
  // when the table is full.
  Inode* open_child(Inode& parent, const std::string& name, UniqueFd fd, const struct stat& info);
  // Null for what the guest does not know.
  Inode* find(uint64_t id);

  // The inode's O_PATH descriptor, or -errno: -ESTALE when its name leads elsewhere by now. Valid
  // until a few dozen other inodes have been used.
  int descriptor(Inode& inode);

  void forget(Inode& inode, uint64_t lookups);
  void acquire(Inode& inode) { ++inode.users; }
  void release(Inode& inode);

  // What the guest does to names. The old name's inode, if it is known.
  Inode* find_by_identity(const FsEntry& entry, const struct stat& info);
  void renamed(Inode& inode, Inode& parent, const std::string& name);

  // A number for st_ino that differs between files of different devices.
  uint64_t guest_number(dev_t device, ino_t number);

  void clear();
  size_t size() const { return inodes_.size(); }
  size_t open_descriptors() const { return used_.size(); }

 private:
  struct Identity {
    const FsEntry* entry;
    dev_t device;
    ino_t number;
    bool operator==(const Identity&) const = default;
  };
  struct IdentityHash {
    size_t operator()(const Identity& identity) const;
  };
  Inode* add(std::unique_ptr<Inode> inode);
  void list(Inode& inode);
  void touch(Inode& inode);
  void close_oldest();
  void drop_if_unused(Inode* inode);

  const size_t max_descriptors_;
  uint64_t next_id_ = kRootId + 1;
  std::unordered_map<uint64_t, std::unique_ptr<Inode>> inodes_;
  std::unordered_map<Identity, Inode*, IdentityHash> by_identity_;
  std::list<Inode*> used_;  // with an open descriptor that may be closed; the latest first
  std::map<dev_t, uint64_t> devices_;
  DescriptorCloser closer_;
};

}  // namespace kiln::vmm
