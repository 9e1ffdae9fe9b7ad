// SPDX-License-Identifier: Apache-2.0
// Files that are open: their content and their locks.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "base/file.h"
#include "vmm/virtio/fs/credentials.h"
#include "vmm/virtio/fs/fuse_arguments.h"
#include "vmm/virtio/fs/fuse_session.h"

namespace kiln::vmm {
namespace {

// What of a guest's open flags is the server's business. O_DIRECT is not: the guest's buffers need
// not suit the host's device.
constexpr int kOpenFlags = O_ACCMODE | O_APPEND | O_TRUNC | O_SYNC | O_DSYNC;

bool same_time(const timespec& a, const timespec& b) {
  return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

}  // namespace

// A descriptor that reads or writes, of the very file that the O_PATH descriptor refers to.
int FuseSession::open_again(Inode& inode, int flags, UniqueFd& out) {
  // An O_PATH descriptor's file never changes, so nothing but a regular file is opened.
  if (!inode.is_regular()) return inode.is_directory() ? -EISDIR : -ENXIO;
  const int fd = inodes_.descriptor(inode);
  if (fd < 0) return fd;
  flags = (flags & kOpenFlags) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
  const std::string name = descriptor_name(fd);
  // Reading a read-only share changes nothing in it, not even the access time.
  if (inode.entry->options.read_only) {
    out.reset(openat(proc_.get(), name.c_str(), flags | O_NOATIME));
    if (out || errno != EPERM) return out ? 0 : -errno;
  }
  out.reset(openat(proc_.get(), name.c_str(), flags));
  return out ? 0 : -errno;
}

// Whether what the guest has cached of the file's content is still good.
uint32_t FuseSession::cache_flags(Inode& inode, int fd) {
  switch (inode.entry->options.cache) {
    case FsCache::kNone:
      return 0;
    case FsCache::kAlways:
      return FOPEN_KEEP_CACHE;
    case FsCache::kAuto:
      break;
  }
  struct stat info {};
  if (fstat(fd, &info) != 0) return 0;
  const bool unchanged = inode.seen_size == info.st_size &&
                         same_time(inode.seen_mtime, info.st_mtim) &&
                         same_time(inode.seen_ctime, info.st_ctim);
  inode.seen_size = info.st_size;
  inode.seen_mtime = info.st_mtim;
  inode.seen_ctime = info.st_ctim;
  return unchanged ? FOPEN_KEEP_CACHE : 0;
}

int FuseSession::add_handle(Inode& inode, UniqueFd fd, fuse_open_out& out) {
  if (handles_.full()) return -ENFILE;
  out.open_flags = inode.is_regular() ? cache_flags(inode, fd.get()) : 0;
  FsHandle handle;
  handle.fd = std::move(fd);
  handle.inode = &inode;
  handle.directory = inode.is_directory();
  inodes_.acquire(inode);
  out.fh = handles_.add(std::move(handle));
  return 0;
}

int FuseSession::open(const FuseRequest& request, FuseReply& reply) {
  ByteReader arguments(request.arguments);
  const auto wanted = take<fuse_open_in>(arguments);
  if (!wanted) return -EINVAL;
  Inode* inode = inodes_.find(request.header.nodeid);
  if (inode == nullptr) return -ESTALE;
  const int flags = static_cast<int>(wanted->flags);
  const bool changes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0;
  if (changes && inode->entry->options.read_only) return -EROFS;
  UniqueFd fd;
  {
    const WithoutFsetid like_anybody((wanted->open_flags & FUSE_OPEN_KILL_SUIDGID) != 0);
    if (const int error = open_again(*inode, flags, fd); error != 0) return error;
  }
  fuse_open_out out{};
  const int error = add_handle(*inode, std::move(fd), out);
  if (error == 0) put(reply, out);
  return error;
}

int FuseSession::read(const FuseRequest& request, FuseReply& reply) {
  ByteReader arguments(request.arguments);
  const auto wanted = take<fuse_read_in>(arguments);
  if (!wanted || wanted->offset > INT64_MAX) return -EINVAL;
  const FsHandle* handle = handles_.find(wanted->fh, request.header.nodeid);
  if (handle == nullptr || handle->directory) return -EBADF;
  // The space was cut to what the guest asked for and has room for.
  const size_t parts = std::min<size_t>(request.space.size(), IOV_MAX);
  const ssize_t got = retry_eintr([&] {
    return preadv(handle->fd.get(), request.space.data(), static_cast<int>(parts),
                  static_cast<off_t>(wanted->offset));
  });
  if (got < 0) return -errno;
  reply.in_place = static_cast<uint32_t>(got);
  return 0;
}

int FuseSession::write(const FuseRequest& request, FuseReply& reply) {
  ByteReader arguments(request.arguments);
  const auto wanted = take<fuse_write_in>(arguments);
  if (!wanted || wanted->offset > INT64_MAX || wanted->size != request.payload_size) return -EINVAL;
  const FsHandle* handle = handles_.find(wanted->fh, request.header.nodeid);
  if (handle == nullptr || handle->directory) return -EBADF;
  if (handle->inode->entry->options.read_only) return -EROFS;
  const WithoutFsetid like_anybody((wanted->write_flags & FUSE_WRITE_KILL_SUIDGID) != 0);
  const size_t parts = std::min<size_t>(request.payload.size(), IOV_MAX);
  const ssize_t written = retry_eintr([&] {
    return pwritev(handle->fd.get(), request.payload.data(), static_cast<int>(parts),
                   static_cast<off_t>(wanted->offset));
  });
  if (written < 0) return -errno;
  put(reply, fuse_write_out{static_cast<uint32_t>(written), 0});
  return 0;
}

// Of files and of directories.
int FuseSession::release(const FuseRequest& request, FuseReply&) {
  ByteReader arguments(request.arguments);
  const auto wanted = take<fuse_release_in>(arguments);
  if (!wanted || handles_.find(wanted->fh, request.header.nodeid) == nullptr) return -EBADF;
  Inode* inode = handles_.remove(wanted->fh);  // flock(2)s go with the descriptor
  if (inode != nullptr) inodes_.release(*inode);
  return 0;
}

// At every close(2) of a descriptor.
int FuseSession::flush(const FuseRequest& request, FuseReply&) {
  ByteReader arguments(request.arguments);
  const auto wanted = take<fuse_flush_in>(arguments);
  if (!wanted) return -EINVAL;
  const FsHandle* handle = handles_.find(wanted->fh, request.header.nodeid);
  if (handle == nullptr) return -EBADF;
  if (handle->inode != nullptr) locks_.drop(*handle->inode, wanted->lock_owner);
  return 0;
}

int FuseSession::fsync(const FuseRequest& request, FuseReply&) {
  ByteReader arguments(request.arguments);
  const auto wanted = take<fuse_fsync_in>(arguments);
  if (!wanted) return -EINVAL;
  const FsHandle* handle = handles_.find(wanted->fh, request.header.nodeid);
  if (handle == nullptr) return -EBADF;
  if (!handle->fd) return 0;  // the synthetic root
  const bool data_only = (wanted->fsync_flags & FUSE_FSYNC_FDATASYNC) != 0;
  const int fd = handle->fd.get();
  return (data_only ? fdatasync(fd) : ::fsync(fd)) == 0 ? 0 : -errno;
}

int FuseSession::syncfs(const FuseRequest& request, FuseReply&) {
  if (request.header.nodeid != FUSE_ROOT_ID && inodes_.find(request.header.nodeid) == nullptr)
    return -ESTALE;
  int first_error = 0;
  for (const auto& [name, entry] : entries_) {
    if (entry->options.read_only) continue;
    const bool directory = S_ISDIR(entry->info.st_mode);
    if (!directory && !S_ISREG(entry->info.st_mode)) continue;
    const UniqueFd fd(
        openat(proc_.get(), descriptor_name(entry->fd.get()).c_str(), O_RDONLY | O_CLOEXEC));
    if ((!fd || ::syncfs(fd.get()) != 0) && first_error == 0) first_error = -errno;
  }
  return first_error;
}

int FuseSession::fallocate(const FuseRequest& request, FuseReply&) {
  ByteReader arguments(request.arguments);
  const auto wanted = take<fuse_fallocate_in>(arguments);
  if (!wanted || wanted->offset > INT64_MAX || wanted->length > INT64_MAX) return -EINVAL;
  const FsHandle* handle = handles_.find(wanted->fh, request.header.nodeid);
  if (handle == nullptr || handle->directory) return -EBADF;
  if (handle->inode->entry->options.read_only) return -EROFS;
  return ::fallocate(handle->fd.get(), static_cast<int>(wanted->mode),
                     static_cast<off_t>(wanted->offset), static_cast<off_t>(wanted->length)) == 0
             ? 0
             : -errno;
}

int FuseSession::lseek(const FuseRequest& request, FuseReply& reply) {
  ByteReader arguments(request.arguments);
  const auto wanted = take<fuse_lseek_in>(arguments);
  // The guest's kernel does the others by itself.
  if (!wanted || (wanted->whence != SEEK_DATA && wanted->whence != SEEK_HOLE)) return -EINVAL;
  if (wanted->offset > INT64_MAX) return -ENXIO;
  const FsHandle* handle = handles_.find(wanted->fh, request.header.nodeid);
  if (handle == nullptr || handle->directory) return -EBADF;
  const off_t at = ::lseek(handle->fd.get(), static_cast<off_t>(wanted->offset),
                           static_cast<int>(wanted->whence));
  if (at < 0) return -errno;
  put(reply, fuse_lseek_out{static_cast<uint64_t>(at)});
  return 0;
}

int FuseSession::copy_file_range(const FuseRequest& request, FuseReply& reply) {
  ByteReader arguments(request.arguments);
  const auto wanted = take<fuse_copy_file_range_in>(arguments);
  if (!wanted || wanted->flags != 0 || wanted->off_in > INT64_MAX || wanted->off_out > INT64_MAX)
    return -EINVAL;
  const FsHandle* in = handles_.find(wanted->fh_in, request.header.nodeid);
  const FsHandle* out = handles_.find(wanted->fh_out, wanted->nodeid_out);
  if (in == nullptr || out == nullptr || in->directory || out->directory) return -EBADF;
  if (out->inode->entry->options.read_only) return -EROFS;
  // Nobody else is served meanwhile: at most this much at a time, and the caller asks again.
  constexpr uint64_t kAtOnce = 64U << 20;
  auto from = static_cast<off_t>(wanted->off_in);
  auto to = static_cast<off_t>(wanted->off_out);
  const ssize_t copied =
      ::copy_file_range(in->fd.get(), &from, out->fd.get(), &to, std::min(wanted->len, kAtOnce), 0);
  if (copied < 0) return -errno;
  put(reply, fuse_write_out{static_cast<uint32_t>(copied), 0});
  return 0;
}

namespace {

// The kernel's range of a lock: inclusive, up to the largest offset.
int range_of(const fuse_file_lock& wanted, struct flock& out) {
  if (wanted.start > INT64_MAX || wanted.end < wanted.start) return -EINVAL;
  out.l_whence = SEEK_SET;
  out.l_start = static_cast<off_t>(wanted.start);
  // 0 stands for "to the end, wherever that is".
  out.l_len = wanted.end >= INT64_MAX ? 0 : static_cast<off_t>(wanted.end - wanted.start + 1);
  if (wanted.type != F_RDLCK && wanted.type != F_WRLCK && wanted.type != F_UNLCK) return -EINVAL;
  out.l_type = static_cast<short>(wanted.type);
  return 0;
}

}  // namespace

int FuseSession::getlk(const FuseRequest& request, FuseReply& reply) {
  ByteReader arguments(request.arguments);
  const auto wanted = take<fuse_lk_in>(arguments);
  if (!wanted) return -EINVAL;
  const FsHandle* handle = handles_.find(wanted->fh, request.header.nodeid);
  if (handle == nullptr || handle->directory) return -EBADF;
  struct flock lock {};
  if (const int error = range_of(wanted->lk, lock); error != 0) return error;
  Inode& inode = *handle->inode;
  const int fd = inodes_.descriptor(inode);
  if (fd < 0) return fd;
  if (const int error = locks_.test(inode, wanted->owner, proc_path(fd), lock); error != 0)
    return error;
  fuse_lk_out out{};
  out.lk.type = static_cast<uint32_t>(lock.l_type);
  if (lock.l_type != F_UNLCK) {
    out.lk.start = static_cast<uint64_t>(lock.l_start);
    out.lk.end = lock.l_len == 0 ? INT64_MAX : static_cast<uint64_t>(lock.l_start + lock.l_len - 1);
  }
  // Whose it is has no meaning in the guest: process numbers are the host's, or another guest's.
  put(reply, out);
  return 0;
}

int FuseSession::change_lock(const FuseRequest& request, FuseReply& reply, bool wait) {
  ByteReader arguments(request.arguments);
  const auto wanted = take<fuse_lk_in>(arguments);
  if (!wanted) return -EINVAL;
  const FsHandle* handle = handles_.find(wanted->fh, request.header.nodeid);
  if (handle == nullptr) return -EBADF;
  int error = 0;
  if ((wanted->lk_flags & FUSE_LK_FLOCK) != 0) {
    int operation = LOCK_UN;
    if (wanted->lk.type == F_RDLCK) operation = LOCK_SH;
    if (wanted->lk.type == F_WRLCK) operation = LOCK_EX;
    if (!handle->fd) return -EBADF;
    if (flock(handle->fd.get(), operation | LOCK_NB) != 0) error = -errno;
  } else {
    struct flock lock {};
    error = range_of(wanted->lk, lock);
    if (error != 0) return error;
    if (handle->directory || handle->inode == nullptr) return -EBADF;
    Inode& inode = *handle->inode;
    const int fd = inodes_.descriptor(inode);
    if (fd < 0) return fd;
    error = locks_.set(inode, wanted->owner, proc_path(fd), lock);
  }
  if (error == -EAGAIN && wait) {
    reply.kind = FuseReply::Kind::kLater;
    return 0;
  }
  return error;
}

int FuseSession::setlk(const FuseRequest& request, FuseReply& reply) {
  return change_lock(request, reply, false);
}

int FuseSession::setlkw(const FuseRequest& request, FuseReply& reply) {
  return change_lock(request, reply, true);
}

}  // namespace kiln::vmm
