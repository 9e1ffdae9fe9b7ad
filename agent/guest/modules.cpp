// SPDX-License-Identifier: Apache-2.0
#include "agent/guest/modules.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "agent/guest/gunzip.h"
#include "base/bytes.h"
#include "base/file.h"
#include "base/format.h"
#include "base/unique_fd.h"

namespace kiln::agent {
namespace {

constexpr size_t kMaxListBytes = 65536;
constexpr size_t kMaxModuleBytes = size_t{16} << 20;

// Of the system calls that load modules.
Result<void> outcome_of(long returned, const std::string& path) {
  if (returned == 0 || errno == EEXIST) return {};
  // ENOENT means a symbol here: the file has been opened.
  if (errno == ENOENT) {
    return make_error(ErrorKind::kFailedPrecondition,
                      fmt::format("load module `{}`: it needs another that is not loaded", path));
  }
  return sys_error(fmt::format("load module `{}`", path));
}

Result<void> load_plain(const std::string& path) {
  const UniqueFd fd = TRY(open_file(path, O_RDONLY));
  return outcome_of(syscall(SYS_finit_module, fd.get(), "", 0), path);
}

Result<void> load_packed(const std::string& path) {
  const std::string packed = TRY(read_file(path, kMaxModuleBytes));
  const std::string content =
      TRY(wrap(gunzip(packed, kMaxModuleBytes), fmt::format("unpack module `{}`", path)));
  return outcome_of(syscall(SYS_init_module, content.data(), content.size(), ""), path);
}

// Up to the next `separator`, which goes too.
std::string_view take_until(std::string_view& rest, char separator) {
  const size_t end = std::min(rest.find(separator), rest.size());
  const std::string_view taken = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return taken;
}

// The files of the first line whose part before the colon has the word; empty without one.
std::string_view files_of(std::string_view table, std::string_view wanted) {
  while (!table.empty()) {
    std::string_view files = take_until(table, '\n');
    std::string_view names = take_until(files, ':');
    while (!names.empty()) {
      if (take_until(names, ' ') == wanted) return files;
    }
  }
  return {};
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
    const std::string_view line = take_until(rest, '\n');
    if (line.empty()) continue;
    const std::string path = (line.front() == '/' ? "" : directory) + std::string(line);
    auto loaded = load_plain(path);
    if (!loaded && outcome) outcome = std::move(loaded);
  }
  return outcome;
}

Result<void> OptionalModules::load(std::string_view name) const {
  const auto table = read_file(directory_ + "/table", kMaxListBytes);
  if (!table && table.error().sys_errno == ENOENT) return {};
  if (!table) return tl::unexpected(table.error());
  std::string wanted(name);
  std::replace(wanted.begin(), wanted.end(), '-', '_');
  std::string_view files = files_of(*table, wanted);
  while (!files.empty()) {
    const std::string_view file = take_until(files, ' ');
    if (!file.empty()) TRY(load_file(file));
  }
  return {};
}

Result<void> OptionalModules::load_file(std::string_view name) const {
  const std::string path = fmt::format("{}/{}", directory_, name);
  auto loaded = name.ends_with(".gz") ? load_packed(path) : load_plain(path);
  // It has been loaded, perhaps by another process.
  if (!loaded && loaded.error().sys_errno == ENOENT) return {};
  if (loaded) unlink(path.c_str());
  return loaded;
}

}  // namespace kiln::agent
