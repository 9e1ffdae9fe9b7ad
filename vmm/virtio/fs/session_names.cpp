// SPDX-License-Identifier: Apache-2.0
// Making, renaming and removing names.
#include <fcntl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "vmm/virtio/fs/credentials.h"
#include "vmm/virtio/fs/fuse_arguments.h"
#include "vmm/virtio/fs/fuse_session.h"

namespace kiln::vmm {
namespace {

// As the guest's kernel encodes it: new_encode_dev.
dev_t decode_device(uint32_t device) {
  return makedev((device & 0xfff00) >> 8, (device & 0xff) | ((device >> 12) & 0xfff00));
}

}  // namespace

int FuseSession::place_to_change(uint64_t parent_id, std::optional<std::string_view> name,
                                 Place& out) {
  if (!name) return -EINVAL;
  if (parent_id == FUSE_ROOT_ID) return -EROFS;
  out.parent = inodes_.find(parent_id);
  if (out.parent == nullptr || !out.parent->is_directory()) return -ESTALE;
  if (out.parent->entry->options.read_only) return -EROFS;
  out.directory = inodes_.descriptor(*out.parent);
  if (out.directory < 0) return out.directory;
  out.name.assign(*name);
  return 0;
}

int FuseSession::answer_entry(const Place& place, FuseReply& reply) {
  fuse_entry_out out{};
  const int error = enter(*place.parent, place.directory, place.name, out);
  if (error == 0) put(reply, out);
  return error;
}

int FuseSession::symlink(const FuseRequest& request, FuseReply& reply) {
  ByteReader arguments(request.arguments);
  Place place;
  if (const int error = place_to_change(request.header.nodeid, take_name(arguments), place);
      error != 0)
    return error;
  const auto target = arguments.read_c_string();  // any text: nobody follows it here
  if (!target || target->empty()) return -EINVAL;
  {
    const CreateAs caller(request.header.uid, request.header.gid);
    if (!caller.ok()) return -EPERM;
    if (symlinkat(std::string(*target).c_str(), place.directory, place.name.c_str()) != 0)
      return -errno;
  }
  return answer_entry(place, reply);
}

int FuseSession::mknod(const FuseRequest& request, FuseReply& reply) {
  ByteReader arguments(request.arguments);
  const auto wanted = take<fuse_mknod_in>(arguments);
  if (!wanted) return -EINVAL;
  Place place;
  if (const int error = place_to_change(request.header.nodeid, take_name(arguments), place);
      error != 0)
    return error;
  {
    const CreateAs caller(request.header.uid, request.header.gid);
    if (!caller.ok()) return -EPERM;
    if (mknodat(place.directory, place.name.c_str(), wanted->mode & (S_IFMT | 07777),
                decode_device(wanted->rdev)) != 0)
      return -errno;
  }
  return answer_entry(place, reply);
}

int FuseSession::mkdir(const FuseRequest& request, FuseReply& reply) {
  ByteReader arguments(request.arguments);
  const auto wanted = take<fuse_mkdir_in>(arguments);
  if (!wanted) return -EINVAL;
  Place place;
  if (const int error = place_to_change(request.header.nodeid, take_name(arguments), place);
      error != 0)
    return error;
  {
    const CreateAs caller(request.header.uid, request.header.gid);
    if (!caller.ok()) return -EPERM;
    if (mkdirat(place.directory, place.name.c_str(), wanted->mode & 07777) != 0) return -errno;
  }
  return answer_entry(place, reply);
}

// The file behind the name stays reachable for a guest that has it open: by the descriptor, as its
// name is about to go.
int FuseSession::remove_name(const FuseRequest& request, int flags) {
  ByteReader arguments(request.arguments);
  Place place;
  if (const int error = place_to_change(request.header.nodeid, take_name(arguments), place);
      error != 0)
    return error;
  struct stat info {};
  Inode* inode = nullptr;
  if (fstatat(place.directory, place.name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0)
    inode = inodes_.find_by_identity(*place.parent->entry, info);
  // Only by its last known name could it be found again.
  const bool loses_name =
      inode != nullptr && inode->parent == place.parent && inode->name == place.name;
  if (loses_name) static_cast<void>(inodes_.descriptor(*inode));
  if (unlinkat(place.directory, place.name.c_str(), flags) != 0) return -errno;
  if (loses_name) inode->unlinked = true;
  return 0;
}

int FuseSession::unlink(const FuseRequest& request, FuseReply&) { return remove_name(request, 0); }

int FuseSession::rmdir(const FuseRequest& request, FuseReply&) {
  return remove_name(request, AT_REMOVEDIR);
}

int FuseSession::rename_to(const FuseRequest& request, std::span<const std::byte> names,
                           uint64_t new_parent, uint32_t flags) {
  ByteReader arguments(names);
  Place from;
  if (const int error = place_to_change(request.header.nodeid, take_name(arguments), from);
      error != 0)
    return error;
  Place to;
  if (const int error = place_to_change(new_parent, take_name(arguments), to); error != 0)
    return error;
  if (from.parent->entry != to.parent->entry) return -EXDEV;
  struct stat info {};
  const FsEntry& entry = *from.parent->entry;
  Inode* moved = nullptr;
  Inode* replaced = nullptr;
  if (fstatat(from.directory, from.name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0)
    moved = inodes_.find_by_identity(entry, info);
  if (fstatat(to.directory, to.name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0)
    replaced = inodes_.find_by_identity(entry, info);
  const bool loses_name =
      replaced != nullptr && replaced->parent == to.parent && replaced->name == to.name;
  if (loses_name) static_cast<void>(inodes_.descriptor(*replaced));
  {
    // A whiteout is a new file.
    const CreateAs caller(request.header.uid, request.header.gid);
    if (!caller.ok()) return -EPERM;
    if (renameat2(from.directory, from.name.c_str(), to.directory, to.name.c_str(), flags) != 0)
      return -errno;
  }
  if (replaced == moved) return 0;  // two names of one file: nothing has happened
  if (replaced != nullptr && (flags & RENAME_EXCHANGE) != 0) {
    inodes_.renamed(*replaced, *from.parent, from.name);
  } else if (loses_name) {
    replaced->unlinked = true;
  }
  if (moved != nullptr) inodes_.renamed(*moved, *to.parent, to.name);
  return 0;
}

int FuseSession::rename(const FuseRequest& request, FuseReply&) {
  ByteReader arguments(request.arguments);
  const auto wanted = take<fuse_rename_in>(arguments);
  if (!wanted) return -EINVAL;
  return rename_to(request, arguments.rest(), wanted->newdir, 0);
}

int FuseSession::rename2(const FuseRequest& request, FuseReply&) {
  ByteReader arguments(request.arguments);
  const auto wanted = take<fuse_rename2_in>(arguments);
  constexpr uint32_t kKnown = RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT;
  if (!wanted || (wanted->flags & ~kKnown) != 0) return -EINVAL;
  return rename_to(request, arguments.rest(), wanted->newdir, wanted->flags);
}

int FuseSession::link(const FuseRequest& request, FuseReply& reply) {
  ByteReader arguments(request.arguments);
  const auto wanted = take<fuse_link_in>(arguments);
  if (!wanted) return -EINVAL;
  Place place;
  if (const int error = place_to_change(request.header.nodeid, take_name(arguments), place);
      error != 0)
    return error;
  Inode* inode = inodes_.find(wanted->oldnodeid);
  if (inode == nullptr) return -ESTALE;
  if (inode->entry != place.parent->entry) return -EXDEV;
  // A share that is one file has no directory that the new name could be beside of.
  if (inode->parent == nullptr) return -EXDEV;
  const int fd = inodes_.descriptor(*inode);
  if (fd < 0) return fd;
  if (linkat(proc_.get(), descriptor_name(fd).c_str(), place.directory, place.name.c_str(),
             AT_SYMLINK_FOLLOW) != 0)
    return -errno;
  return answer_entry(place, reply);
}

int FuseSession::create_file(const FuseRequest& request, FuseReply& reply) {
  ByteReader arguments(request.arguments);
  const auto wanted = take<fuse_create_in>(arguments);
  if (!wanted) return -EINVAL;
  Place place;
  if (const int error = place_to_change(request.header.nodeid, take_name(arguments), place);
      error != 0)
    return error;
  if (handles_.full()) return -ENFILE;
  // Something that is there already may be anything: it is opened as any other file is.
  constexpr int kMine = O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  const int access = static_cast<int>(wanted->flags) & (O_ACCMODE | O_APPEND | O_SYNC);
  UniqueFd fd;
  {
    const CreateAs caller(request.header.uid, request.header.gid);
    if (!caller.ok()) return -EPERM;
    fd.reset(openat(place.directory, place.name.c_str(), access | kMine, wanted->mode & 07777));
  }
  if (!fd && (errno != EEXIST || (wanted->flags & O_EXCL) != 0)) return -errno;
  fuse_entry_out entry{};
  if (const int error = enter(*place.parent, place.directory, place.name, entry); error != 0)
    return error;
  Inode* inode = inodes_.find(entry.nodeid);
  int error = inode == nullptr ? -ESTALE : 0;
  if (error == 0 && !fd) {
    const WithoutFsetid like_anybody((wanted->open_flags & FUSE_OPEN_KILL_SUIDGID) != 0);
    error = open_again(*inode, access | (static_cast<int>(wanted->flags) & O_TRUNC), fd);
  }
  fuse_open_out opened{};
  if (error == 0) error = add_handle(*inode, std::move(fd), opened);
  if (error != 0) {
    if (inode != nullptr) inodes_.forget(*inode, 1);
    return error;
  }
  put(reply, entry);
  put(reply, opened);
  return 0;
}

}  // namespace kiln::vmm
