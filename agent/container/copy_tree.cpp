// SPDX-License-Identifier: Apache-2.0
#include "agent/container/copy_tree.h"

#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <memory>
#include <string>
#include <vector>

#include "agent/container/directory.h"
#include "base/file.h"
#include "base/format.h"

namespace kiln::agent {
namespace {

constexpr int kMaxDepth = 256;  // a descriptor each on both sides
constexpr uint64_t kPageBytes = 4096;

tl::unexpected<Error> too_much() {
  return make_error(ErrorKind::kOutOfRange, "there is more than may be copied");
}

// Which mount a file is on. Not st_dev: an overlay's files have those of their layers.
Result<uint64_t> mount_of(int directory_fd, const char* name, int flags) {
  struct statx status {};
  if (statx(directory_fd, name, flags | AT_SYMLINK_NOFOLLOW, STATX_MNT_ID, &status) != 0)
    return sys_error("stat");
  return status.stx_mnt_id;
}

Result<void> copy_extended_attributes(int from, int to) {
  std::vector<char> names(XATTR_LIST_MAX);
  const ssize_t size = flistxattr(from, names.data(), names.size());
  if (size < 0 && (errno == EOPNOTSUPP || errno == ENOSYS)) return {};
  if (size < 0) return sys_error("list the extended attributes");
  std::vector<char> value(XATTR_SIZE_MAX);
  for (const char* name = names.data(); name < names.data() + size;
       name += std::char_traits<char>::length(name) + 1) {
    const ssize_t length = fgetxattr(from, name, value.data(), value.size());
    if (length < 0) return sys_error(fmt::format("read attribute `{}`", name));
    // A tmpfs of Linux 6.1 has no user.* attributes.
    if (fsetxattr(to, name, value.data(), static_cast<size_t>(length), 0) != 0 &&
        errno != EOPNOTSUPP && errno != EPERM)
      return sys_error(fmt::format("set attribute `{}`", name));
  }
  return {};
}

class TreeCopy {
 public:
  TreeCopy(uint64_t mount, const CopyLimits& limits) : mount_(mount), left_(limits) {}

  Result<void> copy_directory(int source_fd, int target_fd, int depth) {
    if (depth > kMaxDepth) return sys_error("copy a directory", ELOOP);
    for (const std::string& name : TRY(directory_names(source_fd))) {
      if (left_.names-- == 0) return too_much();
      TRY(wrap(copy_entry(source_fd, target_fd, name, depth), fmt::format("`{}`", name)));
    }
    return {};
  }

 private:
  Result<void> copy_entry(int source_fd, int target_fd, const std::string& name, int depth) {
    struct stat status {};
    if (fstatat(source_fd, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0)
      return sys_error("stat");
    if (TRY(mount_of(source_fd, name.c_str(), 0)) != mount_) return {};
    switch (status.st_mode & S_IFMT) {
      case S_IFDIR:
        return copy_subdirectory(source_fd, target_fd, name, depth);
      case S_IFREG:
        return copy_file(source_fd, target_fd, name);
      case S_IFLNK:
        TRY(copy_link(source_fd, target_fd, name));
        break;
      default:
        if (mknodat(target_fd, name.c_str(), status.st_mode, status.st_rdev) != 0)
          return sys_error("create the node");
        if (fchmodat(target_fd, name.c_str(), status.st_mode & 07777, 0) != 0)
          return sys_error("set the mode");
    }
    if (fchownat(target_fd, name.c_str(), status.st_uid, status.st_gid, AT_SYMLINK_NOFOLLOW) != 0)
      return sys_error("set the owner");
    const timespec times[] = {status.st_atim, status.st_mtim};
    if (utimensat(target_fd, name.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0)
      return sys_error("set the times");
    return {};
  }

  Result<void> copy_subdirectory(int source_fd, int target_fd, const std::string& name, int depth) {
    const UniqueFd from = TRY(open_directory(source_fd, name));
    if (mkdirat(target_fd, name.c_str(), 0700) != 0) return sys_error("create the directory");
    const UniqueFd to = TRY(open_directory(target_fd, name));
    TRY(copy_directory(from.get(), to.get(), depth + 1));
    return copy_attributes(from.get(), to.get());
  }

  Result<void> copy_file(int source_fd, int target_fd, const std::string& name) {
    // O_NONBLOCK: it may have become a fifo.
    const UniqueFd from(
        openat(source_fd, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (!from) return sys_error("open the file");
    const UniqueFd to(openat(target_fd, name.c_str(),
                             O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!to) return sys_error("create the file");
    uint64_t copied = 0;
    while (true) {
      const ssize_t size = sendfile(to.get(), from.get(), nullptr, 1U << 20);
      if (size < 0 && errno == EINTR) continue;
      if (size < 0) return sys_error("copy the content");
      if (size == 0) break;
      copied += static_cast<uint64_t>(size);
      if (copied > left_.bytes) return too_much();
    }
    left_.bytes -= std::min(left_.bytes, (copied + kPageBytes - 1) / kPageBytes * kPageBytes);
    return copy_attributes(from.get(), to.get());
  }

  static Result<void> copy_link(int source_fd, int target_fd, const std::string& name) {
    std::array<char, PATH_MAX> target{};
    const ssize_t size = readlinkat(source_fd, name.c_str(), target.data(), target.size() - 1);
    if (size < 0) return sys_error("read the symbolic link");
    if (symlinkat(target.data(), target_fd, name.c_str()) != 0)
      return sys_error("create the symbolic link");
    return {};
  }

  uint64_t mount_;
  CopyLimits left_;
};

}  // namespace

Result<void> copy_attributes(int from, int to) {
  struct stat status {};
  if (fstat(from, &status) != 0) return sys_error("stat");
  if (fchown(to, status.st_uid, status.st_gid) != 0) return sys_error("set the owner");
  if (fchmod(to, status.st_mode & 07777) != 0) return sys_error("set the mode");
  TRY(copy_extended_attributes(from, to));
  const timespec times[] = {status.st_atim, status.st_mtim};
  if (futimens(to, times) != 0) return sys_error("set the times");
  return {};
}

Result<void> copy_tree(int source_fd, int target_fd, const CopyLimits& limits) {
  const UniqueFd from = TRY(open_directory(source_fd, "."));
  const UniqueFd to = TRY(open_directory(target_fd, "."));
  const uint64_t mount = TRY(mount_of(from.get(), "", AT_EMPTY_PATH));
  return TreeCopy(mount, limits).copy_directory(from.get(), to.get(), 0);
}

}  // namespace kiln::agent
