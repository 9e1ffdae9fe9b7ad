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

Result<void> load_module(const std::string& path, int fd) {
  if (syscall(SYS_finit_module, fd, "", 0) == 0 || errno == EEXIST) return {};
  // ENOENT means a symbol here: the file has been opened.
  if (errno == ENOENT) {
    return make_error(ErrorKind::kFailedPrecondition,
                      fmt::format("load module `{}`: it needs another that is not loaded", path));
  }
  return sys_error(fmt::format("load module `{}`", path));
}

Result<void> load_file(const std::string& path) {
  const UniqueFd fd = TRY(open_file(path, O_RDONLY));
  return load_module(path, fd.get());
}

// Up to the next `separator`, which goes too.
std::string_view take_until(std::string_view& rest, char separator) {
  const size_t end = std::min(rest.find(separator), rest.size());
  const std::string_view taken = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return taken;
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
    const std::string path = (line.front() == '/' ? "" : directory) + std::string(line);
    auto loaded = load_file(path);
    if (!loaded && outcome) outcome = std::move(loaded);
  }
  return outcome;
}

Result<OptionalModules> OptionalModules::open(const std::string& list_path) {
  OptionalModules modules;
  const auto list = read_file(list_path, kMaxListBytes);
  if (!list && list.error().sys_errno == ENOENT) return modules;
  if (!list) return tl::unexpected(list.error());
  std::map<std::string, size_t, std::less<>> known;
  std::string_view rest = *list;
  while (!rest.empty()) {
    std::string_view line = take_until(rest, '\n');
    std::vector<size_t>& files = modules.modules_[std::string(take_until(line, ':'))];
    while (!line.empty()) {
      const std::string path(take_until(line, ' '));
      if (path.empty()) continue;
      const auto [entry, is_new] = known.try_emplace(path, modules.files_.size());
      files.push_back(entry->second);
      if (!is_new) continue;
      UniqueFd fd = TRY(open_file(path, O_RDONLY));
      modules.files_.push_back({path, std::move(fd)});
    }
  }
  return modules;
}

Result<void> OptionalModules::load(const std::string& name) {
  const auto found = modules_.find(name);
  if (found == modules_.end()) return {};
  for (const size_t index : found->second) {
    File& file = files_[index];
    if (!file.fd) continue;
    TRY(load_module(file.path, file.fd.get()));
    file.fd.reset();
  }
  modules_.erase(found);
  return {};
}

}  // namespace kiln::agent
