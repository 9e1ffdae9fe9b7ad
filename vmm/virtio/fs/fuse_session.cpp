// SPDX-License-Identifier: Apache-2.0
// The session's life, its shares, and which request goes where.
#include "vmm/virtio/fs/fuse_session.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <iterator>

#include "base/file.h"
#include "base/format.h"
#include "vmm/virtio/fs/fuse_arguments.h"

namespace kiln::vmm {

struct FuseSession::Row {
  uint32_t opcode;
  Operation operation;
};

const FuseSession::Row* FuseSession::find_row(uint32_t opcode) {
  // Sorted by opcode. What is not here is ENOSYS, which makes the guest's kernel do without:
  // interrupts and bmap, ioctl and poll on files that are not ours to interpret, DAX windows, and
  // O_TMPFILE, which programs then replace by a name of their own.
  static constexpr Row kRows[] = {
      {FUSE_LOOKUP, &FuseSession::lookup},
      {FUSE_FORGET, &FuseSession::forget},
      {FUSE_GETATTR, &FuseSession::getattr},
      {FUSE_SETATTR, &FuseSession::setattr},
      {FUSE_READLINK, &FuseSession::readlink},
      {FUSE_SYMLINK, &FuseSession::symlink},
      {FUSE_MKNOD, &FuseSession::mknod},
      {FUSE_MKDIR, &FuseSession::mkdir},
      {FUSE_UNLINK, &FuseSession::unlink},
      {FUSE_RMDIR, &FuseSession::rmdir},
      {FUSE_RENAME, &FuseSession::rename},
      {FUSE_LINK, &FuseSession::link},
      {FUSE_OPEN, &FuseSession::open},
      {FUSE_READ, &FuseSession::read},
      {FUSE_WRITE, &FuseSession::write},
      {FUSE_STATFS, &FuseSession::statfs},
      {FUSE_RELEASE, &FuseSession::release},
      {FUSE_FSYNC, &FuseSession::fsync},
      {FUSE_SETXATTR, &FuseSession::setxattr},
      {FUSE_GETXATTR, &FuseSession::getxattr},
      {FUSE_LISTXATTR, &FuseSession::listxattr},
      {FUSE_REMOVEXATTR, &FuseSession::removexattr},
      {FUSE_FLUSH, &FuseSession::flush},
      {FUSE_INIT, &FuseSession::init},
      {FUSE_OPENDIR, &FuseSession::opendir},
      {FUSE_READDIR, &FuseSession::readdir},
      {FUSE_RELEASEDIR, &FuseSession::release},
      {FUSE_FSYNCDIR, &FuseSession::fsync},
      {FUSE_GETLK, &FuseSession::getlk},
      {FUSE_SETLK, &FuseSession::setlk},
      {FUSE_SETLKW, &FuseSession::setlkw},
      {FUSE_ACCESS, &FuseSession::access},
      {FUSE_CREATE, &FuseSession::create_file},
      {FUSE_DESTROY, &FuseSession::destroy},
      {FUSE_BATCH_FORGET, &FuseSession::batch_forget},
      {FUSE_FALLOCATE, &FuseSession::fallocate},
      {FUSE_READDIRPLUS, &FuseSession::readdirplus},
      {FUSE_RENAME2, &FuseSession::rename2},
      {FUSE_LSEEK, &FuseSession::lseek},
      {FUSE_COPY_FILE_RANGE, &FuseSession::copy_file_range},
      {FUSE_SYNCFS, &FuseSession::syncfs},
  };
  static_assert(std::is_sorted(std::begin(kRows), std::end(kRows),
                               [](const Row& a, const Row& b) { return a.opcode < b.opcode; }));
  const Row* row = std::lower_bound(std::begin(kRows), std::end(kRows), opcode,
                                    [](const Row& a, uint32_t code) { return a.opcode < code; });
  return row != std::end(kRows) && row->opcode == opcode ? row : nullptr;
}

FuseSession::FuseSession(const Limits& limits, UniqueFd proc)
    : proc_(std::move(proc)),
      inodes_(limits.inode_descriptors),
      handles_(limits.handles),
      locks_(inodes_) {}

FuseSession::~FuseSession() = default;

Result<std::unique_ptr<FuseSession>> FuseSession::create(const Limits& limits) {
  UniqueFd proc = TRY(open_file("/proc/self/fd", O_PATH | O_DIRECTORY));
  return std::unique_ptr<FuseSession>(new FuseSession(limits, std::move(proc)));
}

Result<void> FuseSession::add_entry(const std::string& name, UniqueFd fd,
                                    const FsEntryOptions& options) {
  ByteReader reader(std::as_bytes(std::span(name.c_str(), name.size() + 1)));
  const auto checked = take_name(reader);
  if (!checked || checked->size() != name.size() || name.size() > NAME_MAX)
    return invalid_argument(format("share `{}`: not a file's name", name));
  if (entries_.contains(name))
    return make_error(ErrorKind::kAlreadyExists, format("share `{}` exists", name));
  auto entry = std::make_shared<FsEntry>();
  if (fstat(fd.get(), &entry->info) != 0) return sys_error(format("share `{}`", name));
  entry->name = name;
  entry->fd = std::move(fd);
  entry->options = options;
  entries_[name] = std::move(entry);
  return {};
}

Result<void> FuseSession::remove_entry(const std::string& name) {
  if (entries_.erase(name) == 0)
    return make_error(ErrorKind::kNotFound, format("there is no share `{}`", name));
  return {};
}

void FuseSession::handle(const FuseRequest& request, FuseReply& reply) {
  const Row* row = find_row(request.header.opcode);
  int error = -ENOSYS;
  if (row != nullptr && (initialized_ || row->opcode == FUSE_INIT))
    error = (this->*row->operation)(request, reply);
  if (row != nullptr && !initialized_ && row->opcode != FUSE_INIT) error = -EIO;
  const bool silent =
      request.header.opcode == FUSE_FORGET || request.header.opcode == FUSE_BATCH_FORGET;
  if (silent) reply.kind = FuseReply::Kind::kNone;
  reply.error = error;
  if (error != 0) {
    reply.body.clear();
    reply.in_place = 0;
  }
}

void FuseSession::reset() {
  locks_.clear();
  handles_.clear();
  inodes_.clear();
  initialized_ = false;
}

std::string FuseSession::descriptor_name(int fd) const { return std::to_string(fd); }

std::string FuseSession::proc_path(int fd) const {
  return format("/proc/self/fd/{}/{}", proc_.get(), fd);
}

}  // namespace kiln::vmm
