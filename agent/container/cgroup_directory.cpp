// SPDX-License-Identifier: Apache-2.0
#include "agent/container/cgroup_directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <memory>

#include "base/file.h"
#include "base/format.h"

namespace kiln::agent {
namespace {

struct DirectoryCloser {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

// A removed cgroup answers ENODEV where a removed directory answers ENOENT.
bool has_vanished(const Error& error) {
  return error.sys_errno == ENOENT || error.sys_errno == ENODEV;
}

Result<std::vector<std::string>> child_cgroups(int directory) {
  // Through a descriptor of its own: the position of `directory` is nobody else's business.
  UniqueFd copy = TRY(open_cgroup(directory, "."));
  const std::unique_ptr<DIR, DirectoryCloser> stream(::fdopendir(copy.get()));
  if (!stream) return sys_error("list a cgroup");
  copy.release();
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(stream.get())) {
    const std::string_view name = entry->d_name;
    if (entry->d_type == DT_DIR && name != "." && name != "..") names.emplace_back(name);
  }
  return names;
}

Result<UniqueFd> open_file_of(int directory, const std::string& file, int flags) {
  return open_beneath(directory, file, flags,
                      RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
}

void append_pids(std::string_view text, std::vector<pid_t>& out) {
  while (!text.empty()) {
    pid_t pid = 0;
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), pid);
    // 0: a process of a pid namespace that is not ours or below it.
    if (failure == std::errc() && pid > 0) out.push_back(pid);
    const size_t newline = text.find('\n');
    text.remove_prefix(newline == std::string_view::npos ? text.size() : newline + 1);
  }
}

}  // namespace

Result<UniqueFd> open_cgroup(int parent, const std::string& name) {
  return open_file_of(parent, name, O_RDONLY | O_DIRECTORY);
}

Result<std::string> read_cgroup_file(int directory, const std::string& file) {
  const UniqueFd fd = TRY(open_file_of(directory, file, O_RDONLY));
  return wrap(read_fd(fd.get(), 16U << 20), fmt::format("`{}`", file));
}

Result<void> write_cgroup_file(int directory, const std::string& file, std::string_view value) {
  const UniqueFd fd = TRY(open_file_of(directory, file, O_WRONLY));
  const ssize_t size = retry_eintr([&] { return ::write(fd.get(), value.data(), value.size()); });
  if (size != static_cast<ssize_t>(value.size()))
    return sys_error(fmt::format("write `{}`", file), size < 0 ? errno : EIO);
  return {};
}

bool has_word(std::string_view text, std::string_view word) {
  constexpr std::string_view blanks = " \n";
  while (!text.empty()) {
    const size_t begin = text.find_first_not_of(blanks);
    if (begin == std::string_view::npos) return false;
    text.remove_prefix(begin);
    const size_t end = std::min(text.find_first_of(blanks), text.size());
    if (text.substr(0, end) == word) return true;
    text.remove_prefix(end);
  }
  return false;
}

Result<uint64_t> keyed_number(std::string_view text, std::string_view key) {
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    if (line.size() > key.size() && line.substr(0, key.size()) == key && line[key.size()] == ' ') {
      uint64_t value = 0;
      const char* digits = line.data() + key.size() + 1;
      if (std::from_chars(digits, line.data() + line.size(), value).ec == std::errc()) return value;
    }
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return make_error(ErrorKind::kInternal, fmt::format("find `{}` in a cgroup file", key));
}

Result<void> collect_processes(int directory, std::vector<pid_t>& out, int depth) {
  if (depth > kMaxCgroupDepth)
    return make_error(ErrorKind::kResourceExhausted, "cgroups are nested too deeply");
  auto text = read_cgroup_file(directory, "cgroup.procs");
  if (text) {
    append_pids(*text, out);
  } else if (text.error().sys_errno != EOPNOTSUPP && !has_vanished(text.error())) {
    // EOPNOTSUPP: a threaded cgroup, whose processes the threaded domain above it lists.
    return tl::unexpected(std::move(text.error()));
  }
  auto names = child_cgroups(directory);
  if (!names) return has_vanished(names.error()) ? Result<void>() : tl::unexpected(names.error());
  for (const std::string& name : *names) {
    auto child = open_cgroup(directory, name);
    if (!child && has_vanished(child.error())) continue;
    if (!child) return tl::unexpected(std::move(child.error()));
    TRY(collect_processes(child->get(), out, depth + 1));
  }
  return {};
}

Result<void> remove_cgroups_below(int directory, int depth) {
  if (depth > kMaxCgroupDepth)
    return make_error(ErrorKind::kResourceExhausted, "cgroups are nested too deeply");
  for (const std::string& name : TRY(child_cgroups(directory))) {
    if (::unlinkat(directory, name.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT) continue;
    if (errno != EBUSY) return sys_error(fmt::format("remove cgroup `{}`", name));
    // Busy with cgroups of its own, or with processes: the second attempt tells.
    const UniqueFd child = TRY(open_cgroup(directory, name));
    TRY(remove_cgroups_below(child.get(), depth + 1));
    if (::unlinkat(directory, name.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT)
      return sys_error(fmt::format("remove cgroup `{}`", name));
  }
  return {};
}

}  // namespace kiln::agent
