// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"

#include <sys/stat.h>
#include <sys/syscall.h>

#include <cstdio>

#include "base/format.h"

namespace kiln {

Result<UniqueFd> open_file(const std::string& path, int flags, mode_t mode) {
  UniqueFd fd(retry_eintr([&] { return ::open(path.c_str(), flags | O_CLOEXEC, mode); }));
  if (!fd) return sys_error(fmt::format("open `{}`", path));
  return fd;
}

Result<UniqueFd> open_beneath(int directory_fd, const std::string& path, int flags,
                              uint64_t resolve, mode_t mode) {
  open_how how{};
  how.flags = static_cast<uint64_t>(flags) | O_CLOEXEC;
  how.mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? mode : 0;
  how.resolve = resolve;
  // EAGAIN: a concurrent rename outside made the kernel unsure of a `..`; it says to try again.
  for (int tries = 0; tries < 64; ++tries) {
    const long fd = syscall(SYS_openat2, directory_fd, path.c_str(), &how, sizeof how);
    if (fd >= 0) return UniqueFd(static_cast<int>(fd));
    if (errno != EAGAIN && errno != EINTR) break;
  }
  return sys_error(fmt::format("open `{}`", path));
}

Result<std::string> read_fd(int fd, size_t max_bytes) {
  std::string out;
  while (true) {
    const size_t old_size = out.size();
    out.resize(old_size + 16384);
    const ssize_t size = retry_eintr([&] { return ::read(fd, out.data() + old_size, 16384); });
    if (size < 0) return sys_error("read");
    out.resize(old_size + static_cast<size_t>(size));
    if (out.size() > max_bytes) {
      return make_error(ErrorKind::kOutOfRange,
                        fmt::format("read: longer than {} bytes", max_bytes));
    }
    if (size == 0) return out;
  }
}

Result<std::string> read_file(const std::string& path, size_t max_bytes) {
  const UniqueFd fd = TRY(open_file(path, O_RDONLY));
  return wrap(read_fd(fd.get(), max_bytes), fmt::format("`{}`", path));
}

Result<size_t> read_fully(int fd, void* buffer, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t got =
        retry_eintr([&] { return ::read(fd, static_cast<char*>(buffer) + done, size - done); });
    if (got < 0) return sys_error("read");
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return done;
}

Result<void> write_fully(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t size = retry_eintr([&] { return ::write(fd, bytes.data(), bytes.size()); });
    if (size < 0) return sys_error("write");
    bytes.remove_prefix(static_cast<size_t>(size));
  }
  return {};
}

Result<void> write_file(const std::string& path, std::string_view bytes) {
  const UniqueFd fd = TRY(open_file(path, O_WRONLY));
  const ssize_t size = retry_eintr([&] { return ::write(fd.get(), bytes.data(), bytes.size()); });
  if (size < 0) return sys_error(fmt::format("write `{}`", path));
  if (static_cast<size_t>(size) != bytes.size())
    return sys_error(fmt::format("write `{}`", path), EIO);
  return {};
}

Result<void> write_file_atomic(const std::string& path, std::string_view bytes, mode_t mode) {
  const std::string temporary = fmt::format("{}.{}.tmp", path, getpid());
  const UniqueFd fd = TRY(open_file(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, mode));
  auto written = write_fully(fd.get(), bytes);
  if (written && ::rename(temporary.c_str(), path.c_str()) == 0) return {};
  if (written) written = sys_error(fmt::format("rename to `{}`", path));
  ::unlink(temporary.c_str());
  return wrap(std::move(written), fmt::format("write `{}`", path));
}

Result<void> make_directories(const std::string& path, mode_t mode) {
  if (::mkdir(path.c_str(), mode) == 0 || errno == EEXIST) return {};
  const size_t slash = path.find_last_of('/');
  if (errno != ENOENT || slash == std::string::npos || slash == 0) {
    return sys_error(fmt::format("create directory `{}`", path));
  }
  TRY(make_directories(path.substr(0, slash), mode));
  if (::mkdir(path.c_str(), mode) != 0 && errno != EEXIST) {
    return sys_error(fmt::format("create directory `{}`", path));
  }
  return {};
}

}  // namespace kiln
