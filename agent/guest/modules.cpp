// SPDX-License-Identifier: Apache-2.0
#include "agent/guest/modules.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "base/file.h"
#include "base/format.h"

namespace kiln::agent {
namespace {

constexpr size_t kMaxListBytes = 65536;

Result<void> load_module(const std::string& path) {
  const UniqueFd fd = TRY(open_file(path, O_RDONLY));
  if (syscall(SYS_finit_module, fd.get(), "", 0) == 0 || errno == EEXIST) return {};
  // ENOENT means a symbol here: the file has been opened.
  if (errno == ENOENT) {
    return make_error(ErrorKind::kFailedPrecondition,
                      fmt::format("load module `{}`: it needs another that is not loaded", path));
  }
  return sys_error(fmt::format("load module `{}`", path));
}

}  // namespace

Result<void> load_modules(const std::string& list_path) {
  const auto list = read_file(list_path, kMaxListBytes);
  if (!list && list.error().sys_errno == ENOENT) return {};
  if (!list) return tl::unexpected(list.error());
  const std::string directory = list_path.substr(0, list_path.rfind('/') + 1);
  Result<void> outcome;
  std::string_view rest = *list;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.empty()) continue;
    auto loaded = load_module((line.front() == '/' ? "" : directory) + std::string(line));
    if (!loaded && outcome) outcome = std::move(loaded);
  }
  return outcome;
}

}  // namespace kiln::agent
