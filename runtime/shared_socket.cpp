// SPDX-License-Identifier: Apache-2.0
#include "runtime/shared_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "base/file.h"
#include "base/format.h"

namespace kiln::runtime {
namespace {

constexpr uint64_t kInside = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;

Result<UniqueFd> bind_in(int directory, const std::string& name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = fmt::format("/proc/self/fd/{}/{}", directory, name);
  if (path.size() >= sizeof address.sun_path)
    return sys_error(fmt::format("bind `{}`", name), ENAMETOOLONG);
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return sys_error("create a socket");
  if (fchmod(fd.get(), 0600) != 0) return sys_error("set a socket's mode");
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    const int failed = errno == EADDRINUSE ? EEXIST : errno;
    return sys_error(fmt::format("create the socket `{}`", name), failed);
  }
  return fd;
}

Result<void> identify(int file, SharedSocketRecord& record) {
  struct statx info {};
  if (statx(file, "", AT_EMPTY_PATH, STATX_INO | STATX_TYPE | STATX_BTIME, &info) != 0)
    return sys_error(fmt::format("stat `{}`", record.name));
  if (!S_ISSOCK(info.stx_mode))
    return make_error(ErrorKind::kAborted, fmt::format("`{}` has been replaced", record.name));
  record.device = makedev(info.stx_dev_major, info.stx_dev_minor);
  record.inode = info.stx_ino;
  record.birth_ns = (info.stx_mask & STATX_BTIME) != 0
                        ? info.stx_btime.tv_sec * 1'000'000'000 + info.stx_btime.tv_nsec
                        : 0;
  return {};
}

bool is_ours(int directory, const SharedSocketRecord& record) {
  const auto file = open_beneath(directory, record.name, O_PATH | O_NOFOLLOW, kInside);
  SharedSocketRecord found = record;
  return file && identify(file->get(), found) && found.device == record.device &&
         found.inode == record.inode && found.birth_ns == record.birth_ns;
}

Result<void> set_owner(int directory, int file) {
  struct stat parent {};
  if (fstat(directory, &parent) != 0) return sys_error("stat the directory");
  // Without privileges it stays ours, as every file that we make there.
  if (fchownat(file, "", parent.st_uid, parent.st_gid, AT_EMPTY_PATH) != 0 && errno != EPERM)
    return sys_error("set the socket's owner");
  const mode_t mode = (parent.st_mode & S_IWGRP) != 0 ? 0660 : 0600;
  if (chmod(fmt::format("/proc/self/fd/{}", file).c_str(), mode) != 0)
    return sys_error("set the socket's mode");
  return {};
}

}  // namespace

Result<SharedSocket> SharedSocket::listen(SharedPlace place) {
  UniqueFd listener = TRY(bind_in(place.directory.get(), place.name));
  SharedSocket made(std::move(place.directory), std::move(listener));
  auto file = open_beneath(made.directory_.get(), place.name, O_PATH | O_NOFOLLOW, kInside);
  SharedSocketRecord record{std::move(place.share), std::move(place.below), std::move(place.name)};
  // Whoever has replaced it already is welcome to it.
  made.file_ = TRY(std::move(file));
  TRY(identify(made.file_.get(), record));
  made.record_ = std::move(record);
  TRY(set_owner(made.directory_.get(), made.file_.get()));
  if (::listen(made.listener_.get(), SOMAXCONN) != 0) return sys_error("listen");
  return made;
}

SharedSocket::~SharedSocket() {
  if (directory_ && !record_.name.empty() && is_ours(directory_.get(), record_))
    unlinkat(directory_.get(), record_.name.c_str(), 0);
}

Result<void> remove_shared_socket(const SharedSocketRecord& record) {
  const auto share = open_file(record.share, O_PATH | O_DIRECTORY);
  if (!share) return {};
  const auto directory = open_beneath(share->get(), record.below, O_PATH | O_DIRECTORY, kInside);
  if (!directory || !is_ours(directory->get(), record)) return {};
  if (unlinkat(directory->get(), record.name.c_str(), 0) != 0 && errno != ENOENT)
    return sys_error(
        fmt::format("remove the socket `{}/{}/{}`", record.share, record.below, record.name));
  return {};
}

}  // namespace kiln::runtime
