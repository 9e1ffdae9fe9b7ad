// SPDX-License-Identifier: Apache-2.0
// Looking things up, and what is said about them.
#include <fcntl.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "vmm/virtio/fs/credentials.h"
#include "vmm/virtio/fs/fuse_arguments.h"
#include "vmm/virtio/fs/fuse_session.h"

namespace kiln::vmm {
namespace {

constexpr uint32_t kOldestMinor = 31;  // Linux 5.4, the first with virtio-fs
constexpr uint16_t kMaxBackground = 64;

// Locks are the host's, so that other guests and the host take part in them. Content is dropped
// from the guest's cache when its attributes change. Writes go through at once: no
// FUSE_WRITEBACK_CACHE. With HANDLE_KILLPRIV_V2 the guest does not ask for security.capability
// before every write.
constexpr uint64_t kFeatures = FUSE_ASYNC_READ | FUSE_POSIX_LOCKS | FUSE_ATOMIC_O_TRUNC |
                               FUSE_BIG_WRITES | FUSE_FLOCK_LOCKS | FUSE_AUTO_INVAL_DATA |
                               FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO |
                               FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS |
                               FUSE_HANDLE_KILLPRIV_V2 | FUSE_INIT_EXT;

uint32_t low(uint64_t flags) { return static_cast<uint32_t>(flags); }
uint32_t high(uint64_t flags) { return static_cast<uint32_t>(flags >> 32); }

}  // namespace

int FuseSession::init(const FuseRequest& request, FuseReply& reply) {
  // Older guests send a shorter structure: the flags of the extension are then zero.
  constexpr size_t kShortSize = 16;
  if (request.arguments.size() < kShortSize) return -EINVAL;
  fuse_init_in wanted{};
  std::memcpy(&wanted, request.arguments.data(), std::min(sizeof wanted, request.arguments.size()));
  fuse_init_out answer{};
  answer.major = FUSE_KERNEL_VERSION;
  answer.minor = FUSE_KERNEL_MINOR_VERSION;
  if (wanted.major > FUSE_KERNEL_VERSION) {
    // The guest tries again with ours.
    put(reply, answer);
    return 0;
  }
  if (wanted.major < FUSE_KERNEL_VERSION || wanted.minor < kOldestMinor) return -EPROTO;
  reset();
  uint64_t offered = wanted.flags;
  if ((wanted.flags & FUSE_INIT_EXT) != 0) offered |= uint64_t{wanted.flags2} << 32;
  const uint64_t agreed = kFeatures & offered;
  answer.max_readahead = wanted.max_readahead;
  answer.flags = low(agreed);
  answer.flags2 = high(agreed);
  answer.max_background = kMaxBackground;
  answer.congestion_threshold = kMaxBackground * 3 / 4;
  answer.max_write = kMaxTransfer;
  answer.time_gran = 1;
  answer.max_pages = kMaxTransfer / 4096;
  put(reply, answer);
  initialized_ = true;
  return 0;
}

int FuseSession::destroy(const FuseRequest&, FuseReply&) {
  reset();
  return 0;
}

uint64_t FuseSession::seconds_valid(const Inode& inode) {
  switch (inode.entry->options.cache) {
    case FsCache::kNone:
      return 0;
    case FsCache::kAuto:
      return 1;
    case FsCache::kAlways:
      return 86'400;
  }
  return 0;
}

fuse_attr FuseSession::attributes(const struct stat& info) {
  fuse_attr out{};
  out.ino = inodes_.guest_number(info.st_dev, info.st_ino);
  out.size = static_cast<uint64_t>(info.st_size);
  out.blocks = static_cast<uint64_t>(info.st_blocks);
  out.atime = static_cast<uint64_t>(info.st_atim.tv_sec);
  out.mtime = static_cast<uint64_t>(info.st_mtim.tv_sec);
  out.ctime = static_cast<uint64_t>(info.st_ctim.tv_sec);
  out.atimensec = static_cast<uint32_t>(info.st_atim.tv_nsec);
  out.mtimensec = static_cast<uint32_t>(info.st_mtim.tv_nsec);
  out.ctimensec = static_cast<uint32_t>(info.st_ctim.tv_nsec);
  out.mode = info.st_mode;
  out.nlink = static_cast<uint32_t>(info.st_nlink);
  out.uid = info.st_uid;
  out.gid = info.st_gid;
  // The guest's kernel decodes it as its new_decode_dev does: 12 bits of major, 20 of minor.
  out.rdev = (minor(info.st_rdev) & 0xff) | (major(info.st_rdev) << 8) |
             ((minor(info.st_rdev) & ~0xffU) << 12);
  out.blksize = static_cast<uint32_t>(info.st_blksize);
  return out;
}

fuse_attr FuseSession::root_attributes() const {
  fuse_attr out{};
  out.ino = FUSE_ROOT_ID;
  out.mode = S_IFDIR | 0555;
  out.nlink = 2;
  out.blksize = 4096;
  return out;
}

int FuseSession::enter_entry(const std::shared_ptr<FsEntry>& entry, fuse_entry_out& out) {
  Inode* inode = inodes_.open_entry(entry);
  if (inode == nullptr) return -ENFILE;
  struct stat info {};
  if (fstat(entry->fd.get(), &info) != 0) {
    const int error = -errno;
    inodes_.forget(*inode, 1);
    return error;
  }
  out.nodeid = inode->id;
  out.entry_valid = out.attr_valid = seconds_valid(*inode);
  out.attr = attributes(info);
  return 0;
}

int FuseSession::enter(Inode& parent, int directory, const std::string& name, fuse_entry_out& out) {
  UniqueFd fd(openat(directory, name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return -errno;
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) return -errno;
  Inode* inode = inodes_.open_child(parent, name, std::move(fd), info);
  if (inode == nullptr) return -ENFILE;
  out.nodeid = inode->id;
  out.entry_valid = out.attr_valid = seconds_valid(*inode);
  out.attr = attributes(info);
  return 0;
}

int FuseSession::lookup(const FuseRequest& request, FuseReply& reply) {
  ByteReader arguments(request.arguments);
  const auto name = take_name(arguments);
  if (!name) return -EINVAL;
  fuse_entry_out out{};
  int error = 0;
  uint64_t remember_absence = 0;
  if (request.header.nodeid == FUSE_ROOT_ID) {
    const auto found = entries_.find(*name);
    error = found == entries_.end() ? -ENOENT : enter_entry(found->second, out);
  } else {
    Inode* parent = inodes_.find(request.header.nodeid);
    if (parent == nullptr || !parent->is_directory()) return -ESTALE;
    const int directory = inodes_.descriptor(*parent);
    if (directory < 0) return directory;
    scratch_.assign(*name);
    error = enter(*parent, directory, scratch_, out);
    remember_absence = seconds_valid(*parent);
  }
  // Node 0 says that there is nothing, and for how long that may be believed.
  if (error == -ENOENT && remember_absence != 0) {
    out = {};
    out.entry_valid = remember_absence;
    error = 0;
  }
  if (error == 0) put(reply, out);
  return error;
}

int FuseSession::forget(const FuseRequest& request, FuseReply&) {
  ByteReader arguments(request.arguments);
  const auto wanted = take<fuse_forget_in>(arguments);
  Inode* inode = inodes_.find(request.header.nodeid);
  if (wanted && inode != nullptr) inodes_.forget(*inode, wanted->nlookup);
  return 0;
}

int FuseSession::batch_forget(const FuseRequest& request, FuseReply&) {
  ByteReader arguments(request.arguments);
  const auto wanted = take<fuse_batch_forget_in>(arguments);
  // However many it claims, only those that are there count.
  for (uint32_t i = 0; wanted && i < wanted->count; ++i) {
    const auto one = take<fuse_forget_one>(arguments);
    if (!one) break;
    Inode* inode = inodes_.find(one->nodeid);
    if (inode != nullptr) inodes_.forget(*inode, one->nlookup);
  }
  return 0;
}

int FuseSession::getattr(const FuseRequest& request, FuseReply& reply) {
  fuse_attr_out out{};
  if (request.header.nodeid == FUSE_ROOT_ID) {
    out.attr = root_attributes();
    out.attr_valid = 1;
    put(reply, out);
    return 0;
  }
  Inode* inode = inodes_.find(request.header.nodeid);
  if (inode == nullptr) return -ESTALE;
  const int fd = inodes_.descriptor(*inode);
  if (fd < 0) return fd;
  struct stat info {};
  if (fstat(fd, &info) != 0) return -errno;
  out.attr = attributes(info);
  out.attr_valid = seconds_valid(*inode);
  put(reply, out);
  return 0;
}

int FuseSession::set_times(const fuse_setattr_in& wanted, int fd) {
  timespec times[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};
  const auto fill = [&](timespec& time, uint32_t set, uint32_t now, uint64_t seconds,
                        uint32_t nanoseconds) {
    if ((wanted.valid & now) != 0) {
      time.tv_nsec = UTIME_NOW;
    } else if ((wanted.valid & set) != 0) {
      // Larger values would be UTIME_NOW and UTIME_OMIT.
      time = {static_cast<time_t>(seconds), std::min(nanoseconds, 999'999'999U)};
    }
  };
  fill(times[0], FATTR_ATIME, FATTR_ATIME_NOW, wanted.atime, wanted.atimensec);
  fill(times[1], FATTR_MTIME, FATTR_MTIME_NOW, wanted.mtime, wanted.mtimensec);
  return utimensat(fd, "", times, AT_EMPTY_PATH) == 0 ? 0 : -errno;
}

int FuseSession::set_size(Inode& inode, const fuse_setattr_in& wanted) {
  if (!inode.is_regular()) return inode.is_directory() ? -EISDIR : -EINVAL;
  if (wanted.size > INT64_MAX) return -EFBIG;
  const WithoutFsetid like_anybody((wanted.valid & FATTR_KILL_SUIDGID) != 0);
  const auto size = static_cast<off_t>(wanted.size);
  if ((wanted.valid & FATTR_FH) != 0) {
    const FsHandle* handle = handles_.find(wanted.fh, inode.id);
    if (handle == nullptr) return -EBADF;
    return ftruncate(handle->fd.get(), size) == 0 ? 0 : -errno;
  }
  UniqueFd fd;
  const int error = open_again(inode, O_WRONLY, fd);
  if (error != 0) return error;
  return ftruncate(fd.get(), size) == 0 ? 0 : -errno;
}

int FuseSession::setattr(const FuseRequest& request, FuseReply& reply) {
  ByteReader arguments(request.arguments);
  const auto wanted = take<fuse_setattr_in>(arguments);
  if (!wanted) return -EINVAL;
  if (request.header.nodeid == FUSE_ROOT_ID) return -EROFS;
  Inode* inode = inodes_.find(request.header.nodeid);
  if (inode == nullptr) return -ESTALE;
  if (inode->entry->options.read_only) return -EROFS;
  const int fd = inodes_.descriptor(*inode);
  if (fd < 0) return fd;
  constexpr uint32_t kTimes = FATTR_ATIME | FATTR_MTIME | FATTR_ATIME_NOW | FATTR_MTIME_NOW;
  int error = 0;
  if ((wanted->valid & (FATTR_UID | FATTR_GID)) != 0) {
    const uid_t uid = (wanted->valid & FATTR_UID) != 0 ? wanted->uid : static_cast<uid_t>(-1);
    const gid_t gid = (wanted->valid & FATTR_GID) != 0 ? wanted->gid : static_cast<gid_t>(-1);
    if (fchownat(fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0) error = -errno;
  }
  if (error == 0 && (wanted->valid & FATTR_MODE) != 0) {
    // The kernel refuses it for a symbolic link, which is what the descriptor then leads to.
    if (fchmodat(proc_.get(), descriptor_name(fd).c_str(), wanted->mode & 07777, 0) != 0)
      error = -errno;
  }
  if (error == 0 && (wanted->valid & FATTR_SIZE) != 0) error = set_size(*inode, *wanted);
  if (error == 0 && (wanted->valid & kTimes) != 0) error = set_times(*wanted, fd);
  if (error != 0) return error;
  return getattr(request, reply);
}

int FuseSession::statfs(const FuseRequest& request, FuseReply& reply) {
  fuse_statfs_out out{};
  if (request.header.nodeid == FUSE_ROOT_ID) {
    out.st.bsize = out.st.frsize = 4096;
    out.st.namelen = NAME_MAX;
    put(reply, out);
    return 0;
  }
  Inode* inode = inodes_.find(request.header.nodeid);
  if (inode == nullptr) return -ESTALE;
  const int fd = inodes_.descriptor(*inode);
  if (fd < 0) return fd;
  struct statvfs info {};
  if (fstatvfs(fd, &info) != 0) return -errno;
  out.st.blocks = info.f_blocks;
  out.st.bfree = info.f_bfree;
  out.st.bavail = info.f_bavail;
  out.st.files = info.f_files;
  out.st.ffree = info.f_ffree;
  out.st.bsize = static_cast<uint32_t>(info.f_bsize);
  out.st.namelen = static_cast<uint32_t>(info.f_namemax);
  out.st.frsize = static_cast<uint32_t>(info.f_frsize);
  put(reply, out);
  return 0;
}

int FuseSession::readlink(const FuseRequest& request, FuseReply& reply) {
  Inode* inode = inodes_.find(request.header.nodeid);
  if (inode == nullptr) return -ESTALE;
  if (!S_ISLNK(inode->type)) return -EINVAL;
  const int fd = inodes_.descriptor(*inode);
  if (fd < 0) return fd;
  reply.body.resize(PATH_MAX);
  const ssize_t size =
      readlinkat(fd, "", reinterpret_cast<char*>(reply.body.data()), reply.body.size());
  if (size < 0) return -errno;
  reply.body.resize(static_cast<size_t>(size));
  return 0;
}

// The guest's kernel has checked the caller against owner and mode; what it cannot know is that
// the share is read-only, or the host's mount in it that the file is on.
int FuseSession::access(const FuseRequest& request, FuseReply&) {
  ByteReader arguments(request.arguments);
  const auto wanted = take<fuse_access_in>(arguments);
  if (!wanted) return -EINVAL;
  if (request.header.nodeid == FUSE_ROOT_ID) return (wanted->mask & W_OK) != 0 ? -EROFS : 0;
  Inode* inode = inodes_.find(request.header.nodeid);
  if (inode == nullptr) return -ESTALE;
  if ((wanted->mask & W_OK) == 0) return 0;
  if (inode->entry->options.read_only) return -EROFS;
  const int fd = inodes_.descriptor(*inode);
  if (fd < 0) return fd;
  struct statvfs mount {};
  if (fstatvfs(fd, &mount) != 0) return -errno;
  return (mount.f_flag & ST_RDONLY) != 0 ? -EROFS : 0;
}

}  // namespace kiln::vmm
