// SPDX-License-Identifier: Apache-2.0
// The FUSE protocol over the shares: one guest's session. Fuzzed by tests/fuzz/fuzz_fuse.cpp.
#pragma once

#include <linux/fuse.h>
#include <sys/stat.h>

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/unique_fd.h"
#include "vmm/virtio/fs/fuse_request.h"
#include "vmm/virtio/fs/handle_table.h"
#include "vmm/virtio/fs/inode_table.h"
#include "vmm/virtio/fs/lock_table.h"

namespace kiln::vmm {

// The tree that the guest sees: a synthetic root with one name per share. Everything below a share
// is reached from the descriptor of its parent directory, one component at a time, never following
// a symbolic link; device nodes, pipes and sockets are never opened. Read-only shares are enforced
// here. Every operation returns 0 or -errno. Used by one thread.
class FuseSession {
 public:
  struct Limits {
    size_t inode_descriptors = 8192;
    size_t handles = 8192;
  };

  // Opens /proc/self/fd, through which descriptors are opened again.
  static Result<std::unique_ptr<FuseSession>> create(const Limits& limits);
  ~FuseSession();
  FuseSession(const FuseSession&) = delete;
  FuseSession& operator=(const FuseSession&) = delete;

  Result<void> add_entry(const std::string& name, UniqueFd fd, const FsEntryOptions& options);
  Result<void> remove_entry(const std::string& name);

  // `reply` was cleared. Never fails as a whole: what is wrong with a request is its answer.
  void handle(const FuseRequest& request, FuseReply& reply);

  // The guest has gone: it knows nothing any more.
  void reset();

  // The largest READ and WRITE, and the most that other requests may carry.
  static constexpr uint32_t kMaxTransfer = 1U << 20;
  static constexpr uint32_t kMaxArguments = 80U << 10;  // the longest: setxattr's 64 KiB value
  static constexpr uint32_t kMaxAnswer = 128U << 10;

 private:
  using Operation = int (FuseSession::*)(const FuseRequest&, FuseReply&);
  struct Row;
  static const Row* find_row(uint32_t opcode);

  explicit FuseSession(const Limits& limits, UniqueFd proc);

  // session_tree.cpp
  int init(const FuseRequest& request, FuseReply& reply);
  int destroy(const FuseRequest& request, FuseReply& reply);
  int lookup(const FuseRequest& request, FuseReply& reply);
  int forget(const FuseRequest& request, FuseReply& reply);
  int batch_forget(const FuseRequest& request, FuseReply& reply);
  int getattr(const FuseRequest& request, FuseReply& reply);
  int setattr(const FuseRequest& request, FuseReply& reply);
  int statfs(const FuseRequest& request, FuseReply& reply);
  int readlink(const FuseRequest& request, FuseReply& reply);
  int access(const FuseRequest& request, FuseReply& reply);
  // session_names.cpp
  int symlink(const FuseRequest& request, FuseReply& reply);
  int mknod(const FuseRequest& request, FuseReply& reply);
  int mkdir(const FuseRequest& request, FuseReply& reply);
  int unlink(const FuseRequest& request, FuseReply& reply);
  int rmdir(const FuseRequest& request, FuseReply& reply);
  int rename(const FuseRequest& request, FuseReply& reply);
  int rename2(const FuseRequest& request, FuseReply& reply);
  int link(const FuseRequest& request, FuseReply& reply);
  int create_file(const FuseRequest& request, FuseReply& reply);
  // session_files.cpp
  int open(const FuseRequest& request, FuseReply& reply);
  int read(const FuseRequest& request, FuseReply& reply);
  int write(const FuseRequest& request, FuseReply& reply);
  int release(const FuseRequest& request, FuseReply& reply);
  int flush(const FuseRequest& request, FuseReply& reply);
  int fsync(const FuseRequest& request, FuseReply& reply);
  int syncfs(const FuseRequest& request, FuseReply& reply);
  int fallocate(const FuseRequest& request, FuseReply& reply);
  int lseek(const FuseRequest& request, FuseReply& reply);
  int copy_file_range(const FuseRequest& request, FuseReply& reply);
  int getlk(const FuseRequest& request, FuseReply& reply);
  int setlk(const FuseRequest& request, FuseReply& reply);
  int setlkw(const FuseRequest& request, FuseReply& reply);
  // session_directories.cpp
  int opendir(const FuseRequest& request, FuseReply& reply);
  int readdir(const FuseRequest& request, FuseReply& reply);
  int readdirplus(const FuseRequest& request, FuseReply& reply);
  // session_xattrs.cpp
  int setxattr(const FuseRequest& request, FuseReply& reply);
  int getxattr(const FuseRequest& request, FuseReply& reply);
  int listxattr(const FuseRequest& request, FuseReply& reply);
  int removexattr(const FuseRequest& request, FuseReply& reply);

  // What several of them need.
  struct Place {  // a name in a directory
    Inode* parent = nullptr;
    int directory = -1;
    std::string name;
  };
  int place_to_change(uint64_t parent_id, std::optional<std::string_view> name, Place& out);
  // Looks `name` up and counts it; fills in what the guest is told.
  int enter(Inode& parent, int directory, const std::string& name, fuse_entry_out& out);
  int enter_entry(const std::shared_ptr<FsEntry>& entry, fuse_entry_out& out);
  int answer_entry(const Place& place, FuseReply& reply);
  int open_again(Inode& inode, int flags, UniqueFd& out);
  int add_handle(Inode& inode, UniqueFd fd, fuse_open_out& out);
  uint32_t cache_flags(Inode& inode, int fd);
  int read_directory(const FuseRequest& request, FuseReply& reply, bool plus);
  int read_root(uint64_t offset, uint32_t size, FuseReply& reply, bool plus);
  int refill(FsHandle& handle, uint64_t offset);
  int put_child(FsHandle& handle, std::string_view name, uint32_t size, FuseReply& reply,
                fuse_dirent& record, bool plus);
  int rename_to(const FuseRequest& request, std::span<const std::byte> names, uint64_t new_parent,
                uint32_t flags);
  int remove_name(const FuseRequest& request, int flags);
  int change_lock(const FuseRequest& request, FuseReply& reply, bool wait);
  int set_times(const fuse_setattr_in& wanted, int fd);
  int set_size(Inode& inode, const fuse_setattr_in& wanted);
  fuse_attr attributes(const struct stat& info);
  fuse_attr root_attributes() const;
  // How long the guest may trust an answer about the inode.
  static uint64_t seconds_valid(const Inode& inode);
  std::string proc_path(int fd) const;
  std::string descriptor_name(int fd) const;

  const UniqueFd proc_;  // /proc/self/fd
  InodeTable inodes_;
  HandleTable handles_;
  LockTable locks_;
  std::map<std::string, std::shared_ptr<FsEntry>, std::less<>> entries_;
  std::string scratch_;
  bool initialized_ = false;
};

}  // namespace kiln::vmm
