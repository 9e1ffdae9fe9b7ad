// SPDX-License-Identifier: Apache-2.0
#include "agent/container/sysctl.h"

#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>

#include "base/file.h"
#include "base/format.h"
#include "oci/spec.h"

namespace kiln::agent {
namespace {

tl::unexpected<Error> bad_key(std::string_view key, const char* why) {
  return invalid_argument(fmt::format("linux.sysctl `{}`: {}", key, why));
}

// A directory of the root file system that is merely called /proc/sys must not take the values.
Result<UniqueFd> open_proc_sys() {
  UniqueFd fd = TRY(open_file("/proc/sys", O_PATH | O_DIRECTORY | O_NOFOLLOW));
  struct statfs stats {};
  if (::fstatfs(fd.get(), &stats) != 0) return sys_error("statfs `/proc/sys`");
  if (stats.f_type != PROC_SUPER_MAGIC)
    return make_error(ErrorKind::kFailedPrecondition, "`/proc/sys`: is not a proc file system");
  return fd;
}

Result<void> apply_sysctl(int proc_sys, const std::string& key, const std::string& value) {
  const std::string path = TRY(sysctl_path(key));
  auto file = open_beneath(proc_sys, path, O_WRONLY,
                           RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
  if (!file && file.error().sys_errno == ENOENT) {
    return make_error(
        ErrorKind::kNotFound,
        fmt::format("linux.sysctl `{}`: the guest's kernel has no such parameter", key));
  }
  if (!file) return tl::unexpected(std::move(file.error()).wrap("linux.sysctl"));
  // One write: a second one would start a new value.
  const ssize_t size =
      retry_eintr([&] { return ::write(file->get(), value.data(), value.size()); });
  if (size != static_cast<ssize_t>(value.size()))
    return sys_error(fmt::format("linux.sysctl `{}`: write `{}`", key, value),
                     size < 0 ? errno : EIO);
  return {};
}

}  // namespace

Result<std::string> sysctl_path(std::string_view key) {
  std::string path(key);
  const size_t first = path.find_first_of("./");
  if (first != std::string::npos && path[first] == '.') {
    for (char& c : path) {
      if (c == '.')
        c = '/';
      else if (c == '/')
        c = '.';
    }
  }
  if (path.find('\0') != std::string::npos) return bad_key(key, "holds a null byte");
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view component = std::string_view(path).substr(begin, end - begin);
    if (component.empty()) return bad_key(key, "has an empty component");
    if (component == "." || component == "..") return bad_key(key, "must not leave /proc/sys");
    begin = end + 1;
  }
  return path;
}

Result<void> apply_sysctls(const oci::Spec& spec) {
  if (spec.linux.sysctl.empty()) return {};
  const UniqueFd proc_sys = TRY(open_proc_sys());
  for (const auto& [key, value] : spec.linux.sysctl) TRY(apply_sysctl(proc_sys.get(), key, value));
  return {};
}

}  // namespace kiln::agent
