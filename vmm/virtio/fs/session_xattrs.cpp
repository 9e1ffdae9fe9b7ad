// SPDX-License-Identifier: Apache-2.0
// Extended attributes. They are reached through /proc/self/fd, because O_PATH descriptors have no
// calls of their own for them; the link leads to the file itself, a symbolic link included.
#include <linux/limits.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cerrno>

#include "vmm/virtio/fs/credentials.h"
#include "vmm/virtio/fs/fuse_arguments.h"
#include "vmm/virtio/fs/fuse_session.h"

namespace kiln::vmm {
namespace {

// POSIX ACLs were not negotiated: the guest would not obey them.
bool is_served(std::string_view name) {
  return name.size() <= XATTR_NAME_MAX && !name.starts_with("system.");
}

}  // namespace

int FuseSession::setxattr(const FuseRequest& request, FuseReply&) {
  ByteReader arguments(request.arguments);
  // Without FUSE_SETXATTR_EXT only the first two fields are sent.
  const auto size = take<uint32_t>(arguments);
  const auto flags = take<uint32_t>(arguments);
  const auto name = arguments.read_c_string();
  if (!size || !flags || !name || name->empty()) return -EINVAL;
  const auto value = arguments.read_bytes(*size);
  if (!value) return -EINVAL;
  if (!is_served(*name)) return -EOPNOTSUPP;
  if (request.header.nodeid == FUSE_ROOT_ID) return -EROFS;
  Inode* inode = inodes_.find(request.header.nodeid);
  if (inode == nullptr) return -ESTALE;
  if (inode->entry->options.read_only) return -EROFS;
  const int fd = inodes_.descriptor(*inode);
  if (fd < 0) return fd;
  return ::setxattr(proc_path(fd).c_str(), std::string(*name).c_str(), value->data(), value->size(),
                    static_cast<int>(*flags)) == 0
             ? 0
             : -errno;
}

int FuseSession::getxattr(const FuseRequest& request, FuseReply& reply) {
  ByteReader arguments(request.arguments);
  const auto wanted = take<fuse_getxattr_in>(arguments);
  const auto name = arguments.read_c_string();
  if (!wanted || !name || name->empty()) return -EINVAL;
  if (!is_served(*name)) return -EOPNOTSUPP;
  if (request.header.nodeid == FUSE_ROOT_ID) return -ENODATA;
  Inode* inode = inodes_.find(request.header.nodeid);
  if (inode == nullptr) return -ESTALE;
  const int fd = inodes_.descriptor(*inode);
  if (fd < 0) return fd;
  const size_t room = std::min<size_t>({wanted->size, XATTR_SIZE_MAX, request.space_size});
  reply.body.resize(room);
  const ssize_t size = ::getxattr(proc_path(fd).c_str(), std::string(*name).c_str(),
                                  room == 0 ? nullptr : reply.body.data(), room);
  if (size < 0) return -errno;
  reply.body.resize(wanted->size == 0 ? 0 : static_cast<size_t>(size));
  if (wanted->size == 0) put(reply, fuse_getxattr_out{static_cast<uint32_t>(size), 0});
  return 0;
}

int FuseSession::listxattr(const FuseRequest& request, FuseReply& reply) {
  ByteReader arguments(request.arguments);
  const auto wanted = take<fuse_getxattr_in>(arguments);
  if (!wanted) return -EINVAL;
  if (request.header.nodeid == FUSE_ROOT_ID) {
    if (wanted->size == 0) put(reply, fuse_getxattr_out{});
    return 0;
  }
  Inode* inode = inodes_.find(request.header.nodeid);
  if (inode == nullptr) return -ESTALE;
  const int fd = inodes_.descriptor(*inode);
  if (fd < 0) return fd;
  const size_t room = std::min<size_t>({wanted->size, XATTR_LIST_MAX, request.space_size});
  reply.body.resize(room);
  const ssize_t size =
      ::listxattr(proc_path(fd).c_str(),
                  room == 0 ? nullptr : reinterpret_cast<char*>(reply.body.data()), room);
  if (size < 0) return -errno;
  reply.body.resize(wanted->size == 0 ? 0 : static_cast<size_t>(size));
  if (wanted->size == 0) put(reply, fuse_getxattr_out{static_cast<uint32_t>(size), 0});
  return 0;
}

int FuseSession::removexattr(const FuseRequest& request, FuseReply&) {
  ByteReader arguments(request.arguments);
  const auto name = arguments.read_c_string();
  if (!name || name->empty()) return -EINVAL;
  if (!is_served(*name)) return -EOPNOTSUPP;
  if (request.header.nodeid == FUSE_ROOT_ID) return -EROFS;
  Inode* inode = inodes_.find(request.header.nodeid);
  if (inode == nullptr) return -ESTALE;
  if (inode->entry->options.read_only) return -EROFS;
  const int fd = inodes_.descriptor(*inode);
  if (fd < 0) return fd;
  return ::removexattr(proc_path(fd).c_str(), std::string(*name).c_str()) == 0 ? 0 : -errno;
}

}  // namespace kiln::vmm
