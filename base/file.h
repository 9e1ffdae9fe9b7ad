// SPDX-License-Identifier: Apache-2.0
// Whole files, and opening paths without following what others can change.
#pragma once

#include <fcntl.h>
#include <linux/openat2.h>

#include <cerrno>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln {

template <typename Call>
auto retry_eintr(Call call) {
  auto result = call();
  while (result == -1 && errno == EINTR) result = call();
  return result;
}

// open(2) with O_CLOEXEC; the error names the path.
Result<UniqueFd> open_file(const std::string& path, int flags, mode_t mode = 0);

// openat2(2) with O_CLOEXEC. `resolve`: RESOLVE_* of <linux/openat2.h>.
Result<UniqueFd> open_beneath(int directory_fd, const std::string& path, int flags,
                              uint64_t resolve, mode_t mode = 0);

// The file's content; kOutOfRange if it is longer than `max_bytes`. Works on /proc files too.
Result<std::string> read_file(const std::string& path, size_t max_bytes = 16U << 20);
Result<std::string> read_fd(int fd, size_t max_bytes);

// Bytes read; fewer than `size` only at end of file.
Result<size_t> read_fully(int fd, void* buffer, size_t size);
Result<void> write_fully(int fd, std::string_view bytes);

// Writes to an existing file in one write(2), as /proc and cgroup files want it.
Result<void> write_file(const std::string& path, std::string_view bytes);

// Creates or replaces `path` so that a reader sees the old or the new content, never a part.
Result<void> write_file_atomic(const std::string& path, std::string_view bytes, mode_t mode);

// mkdir -p; `mode` for the directories that it makes.
Result<void> make_directories(const std::string& path, mode_t mode);

}  // namespace kiln
