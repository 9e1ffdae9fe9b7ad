// SPDX-License-Identifier: Apache-2.0
#include "vmm/api/confined_process.h"

#include <linux/capability.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <csignal>

#include "base/file.h"
#include "base/format.h"

namespace kiln::vmm {
namespace {

bool has_effective(uint32_t bits) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> sets{};
  return syscall(SYS_capget, &header, sets.data()) == 0 && (sets[0].effective & bits) == bits;
}

// user_namespaces(7): lines of "first-inside first-outside length".
bool is_mapped(const std::string& map, uint64_t id) {
  const char* at = map.data();
  const char* const end = at + map.size();
  const auto number = [&] {
    while (at != end && (*at == ' ' || *at == '\n')) ++at;
    uint64_t value = 0;
    at = std::from_chars(at, end, value).ptr;
    return value;
  };
  while (at != end) {
    const uint64_t first = number();
    number();
    const uint64_t length = number();
    if (length == 0) return false;
    if (id >= first && id - first < length) return true;
  }
  return false;
}

}  // namespace

bool can_change_ids() {
  if (!has_effective((1U << CAP_SETUID) | (1U << CAP_SETGID))) return false;
  const auto uids = read_file("/proc/self/uid_map");
  const auto gids = read_file("/proc/self/gid_map");
  return uids && gids && is_mapped(*uids, kConfinedUid) && is_mapped(*gids, kConfinedGid);
}

Result<void> admit_confined(const std::string& path) {
  if (!can_change_ids()) return {};
  const UniqueFd fd = TRY(open_file(path, O_PATH | O_NOFOLLOW));
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) return sys_error(format("stat `{}`", path));
  // A directory's names need not be listed, and a socket is connected to by who may write to it.
  const mode_t granted = S_ISDIR(info.st_mode) ? S_IXGRP : S_IWGRP;
  if (fchownat(fd.get(), "", static_cast<uid_t>(-1), kConfinedGid, AT_EMPTY_PATH) != 0)
    return sys_error(format("change the group of `{}`", path));
  const mode_t mode = (info.st_mode & 07707U) | granted;
  const std::string name = format("/proc/self/fd/{}", fd.get());
  if (chmod(name.c_str(), mode) != 0) return sys_error(format("change the mode of `{}`", path));
  return {};
}

uint64_t vmm_namespaces() {
  constexpr uint64_t kPid = CLONE_NEWPID;
  return has_effective(1U << CAP_SYS_ADMIN) ? kPid : kPid | CLONE_NEWUSER;
}

std::string describe_end(std::string_view program, const ExitStatus& status) {
  if (status.signal == SIGSYS) {
    return format(
        "{} made a system call that its filter forbids (SIGSYS; the kernel's log may have its "
        "number)",
        program);
  }
  if (status.signal != 0) return format("{} was killed by signal {}", program, status.signal);
  return format("{} ended with exit status {}", program, status.code);
}

}  // namespace kiln::vmm
