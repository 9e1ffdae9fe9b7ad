// SPDX-License-Identifier: Apache-2.0
// Listing directories.
#include <dirent.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/bytes.h"
#include "vmm/virtio/fs/fuse_arguments.h"
#include "vmm/virtio/fs/fuse_session.h"

namespace kiln::vmm {
namespace {

constexpr size_t kRecordsAtOnce = 32U << 10;

// getdents64(2)'s record, up to the name.
struct DirectoryRecord {
  uint64_t number;
  int64_t next;
  uint16_t size;
  uint8_t type;
} __attribute__((packed));

size_t padded(size_t size) { return (size + 7) & ~size_t{7}; }

// Adds one name to the answer; false when it does not fit into `size` bytes.
bool put_record(FuseReply& reply, uint32_t size, const fuse_entry_out* entry,
                const fuse_dirent& record, std::string_view name) {
  const size_t head = (entry != nullptr ? sizeof *entry : 0) + sizeof record;
  const size_t whole = padded(head + name.size());
  if (reply.body.size() + whole > size) return false;
  const size_t end = reply.body.size() + whole;
  if (entry != nullptr) put(reply, *entry);
  put(reply, record);
  put_bytes(reply, name.data(), name.size());
  reply.body.resize(end);
  return true;
}

}  // namespace

int FuseSession::opendir(const FuseRequest& request, FuseReply& reply) {
  if (handles_.full()) return -ENFILE;
  fuse_open_out out{};
  if (request.header.nodeid == FUSE_ROOT_ID) {
    FsHandle handle;
    handle.directory = true;
    out.fh = handles_.add(std::move(handle));
    put(reply, out);
    return 0;
  }
  Inode* inode = inodes_.find(request.header.nodeid);
  if (inode == nullptr) return -ESTALE;
  if (!inode->is_directory()) return -ENOTDIR;
  const int path_fd = inodes_.descriptor(*inode);
  if (path_fd < 0) return path_fd;
  const int atime = inode->entry->options.read_only ? O_NOATIME : 0;
  UniqueFd fd(openat(path_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC | atime));
  if (!fd) return -errno;
  const int error = add_handle(*inode, std::move(fd), out);
  if (error == 0) put(reply, out);
  return error;
}

// Fetches records from where the guest wants to go on, unless they are here.
int FuseSession::refill(FsHandle& handle, uint64_t offset) {
  const bool continues = handle.next_offset == static_cast<int64_t>(offset);
  if (continues && handle.start < handle.records.size()) return 0;
  if (!continues && ::lseek(handle.fd.get(), static_cast<off_t>(offset), SEEK_SET) < 0)
    return -errno;
  handle.next_offset = static_cast<int64_t>(offset);
  handle.start = 0;
  handle.records.resize(kRecordsAtOnce);
  const long got =
      syscall(SYS_getdents64, handle.fd.get(), handle.records.data(), handle.records.size());
  handle.records.resize(got > 0 ? static_cast<size_t>(got) : 0);
  return got < 0 ? -errno : 0;
}

int FuseSession::read_root(uint64_t offset, uint32_t size, FuseReply& reply, bool plus) {
  // Rarely listed, by people who debug: an offset is simply a count.
  uint64_t place = 0;
  for (const auto& [name, entry] : entries_) {
    if (place++ < offset) continue;
    fuse_dirent record{};
    record.ino = inodes_.guest_number(entry->info.st_dev, entry->info.st_ino);
    record.off = place;
    record.namelen = static_cast<uint32_t>(name.size());
    record.type = IFTODT(entry->info.st_mode);
    // A zero nodeid: the name alone, to be looked up by who wants more.
    const fuse_entry_out nothing{};
    if (!put_record(reply, size, plus ? &nothing : nullptr, record, name)) break;
  }
  return 0;
}

// With `plus` the guest learns of the file itself too, as by a lookup. 1: did not fit.
int FuseSession::put_child(FsHandle& handle, std::string_view name, uint32_t size, FuseReply& reply,
                           fuse_dirent& record, bool plus) {
  if (!plus) return put_record(reply, size, nullptr, record, name) ? 0 : 1;
  fuse_entry_out entry{};
  if (name != "." && name != "..") {
    // A lookup must not be counted that the guest does not hear of.
    if (reply.body.size() + padded(sizeof entry + sizeof record + name.size()) > size) return 1;
    const int directory = inodes_.descriptor(*handle.inode);
    if (directory < 0) return directory;
    scratch_.assign(name);
    // Gone since: the guest will find that out by itself.
    if (enter(*handle.inode, directory, scratch_, entry) != 0) entry = {};
  }
  return put_record(reply, size, &entry, record, name) ? 0 : 1;
}

int FuseSession::read_directory(const FuseRequest& request, FuseReply& reply, bool plus) {
  ByteReader arguments(request.arguments);
  const auto wanted = take<fuse_read_in>(arguments);
  if (!wanted) return -EINVAL;
  FsHandle* handle = handles_.find(wanted->fh, request.header.nodeid);
  if (handle == nullptr || !handle->directory) return -EBADF;
  const uint32_t size = std::min({wanted->size, request.space_size, kMaxAnswer});
  if (handle->inode == nullptr) return read_root(wanted->offset, size, reply, plus);
  uint64_t offset = wanted->offset;
  while (true) {
    if (const int error = refill(*handle, offset); error != 0)
      return reply.body.empty() ? error : 0;
    if (handle->start >= handle->records.size()) return 0;  // the end
    const auto rest = std::span<const std::byte>(handle->records).subspan(handle->start);
    ByteReader reader(rest);
    const auto head = reader.read<DirectoryRecord>();
    const auto name = reader.read_c_string();
    if (!head || !name || head->size > rest.size() || head->size == 0) return -EIO;
    fuse_dirent record{};
    record.ino = inodes_.guest_number(handle->inode->device, head->number);
    record.off = static_cast<uint64_t>(head->next);
    record.namelen = static_cast<uint32_t>(name->size());
    record.type = head->type;
    const int outcome = put_child(*handle, *name, size, reply, record, plus);
    if (outcome == 1) return 0;
    if (outcome != 0) return reply.body.empty() ? outcome : 0;
    handle->start += head->size;
    handle->next_offset = head->next;
    offset = static_cast<uint64_t>(head->next);
  }
}

int FuseSession::readdir(const FuseRequest& request, FuseReply& reply) {
  return read_directory(request, reply, false);
}

int FuseSession::readdirplus(const FuseRequest& request, FuseReply& reply) {
  return read_directory(request, reply, true);
}

}  // namespace kiln::vmm
