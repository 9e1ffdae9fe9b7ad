// SPDX-License-Identifier: Apache-2.0
#include "agent/container/process_setup.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <linux/keyctl.h>
#include <sys/personality.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <climits>

#include "agent/container/executable.h"
#include "agent/container/process_attributes.h"
#include "agent/container/root_paths.h"
#include "base/file.h"
#include "base/format.h"

namespace kiln::agent {
namespace {

constexpr size_t kMaxPasswdBytes = 1 << 20;
constexpr int kFirstPassed = 3;

// What the container has as /etc/passwd is its own affair; a fifo there must not stop us.
std::string find_home(uint32_t uid) {
  const UniqueFd fd(open("/etc/passwd", O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  struct stat status {};
  if (!fd || fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode)) return "/";
  const auto text = read_fd(fd.get(), kMaxPasswdBytes);
  return text ? home_directory(*text, uid) : "/";
}

Result<UniqueFd> open_null(int root_fd) {
  const auto found = open_in_root(root_fd, "/dev/null", O_PATH);
  struct stat status {};
  const bool genuine = found && fstat(found->get(), &status) == 0 && S_ISCHR(status.st_mode) &&
                       status.st_rdev == makedev(1, 3);
  if (!genuine) return open_file("/dev/null", O_RDWR);
  return open_file(fmt::format("/proc/self/fd/{}", found->get()), O_RDWR);
}

Result<void> verify_working_directory() {
  std::array<char, PATH_MAX> buffer{};
  // getcwd(2): `(unreachable)` in front, or ENOENT, if it is not below the root.
  const long size = syscall(SYS_getcwd, buffer.data(), buffer.size());
  if (size > 0 && buffer[0] == '/') return {};
  return make_error(ErrorKind::kPermissionDenied,
                    "the working directory is outside of the container's root file system");
}

Result<void> load_filter(const std::optional<SeccompProgram>& seccomp) {
  if (!seccomp) return {};
  return wrap(load_seccomp(*seccomp), "load the system call filter");
}

}  // namespace

Result<void> become_namespace_root() {
  if (setgroups(0, nullptr) != 0) return sys_error("drop the groups");
  if (setresgid(0, 0, 0) != 0) return sys_error("become gid 0 of the user namespace");
  if (setresuid(0, 0, 0) != 0) return sys_error("become uid 0 of the user namespace");
  return {};
}

Result<void> set_names(const oci::Spec& spec) {
  if (!spec.hostname.empty() && sethostname(spec.hostname.c_str(), spec.hostname.size()) != 0)
    return sys_error("set the hostname");
  if (!spec.domainname.empty() &&
      setdomainname(spec.domainname.c_str(), spec.domainname.size()) != 0)
    return sys_error("set the domain name");
  return {};
}

Result<void> join_keyring(const std::string& container_id) {
  const std::string name = "_ses." + container_id;
  if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.c_str()) >= 0) return {};
  if (errno == ENOSYS) return {};  // then there is nothing to keep from it
  return sys_error("create a session keyring");
}

Result<void> set_personality(const std::optional<oci::Personality>& wanted) {
  if (!wanted) return {};
  const unsigned long domain = wanted->domain == "LINUX32" ? PER_LINUX32 : PER_LINUX;
  if (personality(domain) == -1)
    return sys_error(fmt::format("set the personality `{}`", wanted->domain));
  return {};
}

Result<void> place_stdio(const ProcessFds& stdio, int terminal_fd, int root_fd) {
  const UniqueFd null = TRY(open_null(root_fd));
  const int wanted[] = {stdio.stdin_fd.get(), stdio.stdout_fd.get(), stdio.stderr_fd.get()};
  // Lifted first: a wanted one may have the number of another's place.
  std::array<UniqueFd, 3> lifted;
  for (size_t i = 0; i < lifted.size(); ++i) {
    const int given = wanted[i] >= 0 ? wanted[i] : null.get();
    lifted[i].reset(fcntl(terminal_fd >= 0 ? terminal_fd : given, F_DUPFD_CLOEXEC, 3));
    if (!lifted[i]) return sys_error("duplicate a standard stream");
  }
  for (size_t i = 0; i < lifted.size(); ++i)
    if (dup2(lifted[i].get(), static_cast<int>(i)) < 0) return sys_error("place a standard stream");
  return {};
}

Result<void> place_passed(const std::vector<UniqueFd>& passed, UniqueFd& moved) {
  const int end = kFirstPassed + static_cast<int>(passed.size());
  if (!passed.empty() && moved && moved.get() < end) {
    UniqueFd higher(fcntl(moved.get(), F_DUPFD_CLOEXEC, end));
    if (!higher) return sys_error("duplicate a terminal");
    moved = std::move(higher);
  }
  for (size_t i = 0; i < passed.size(); ++i) {
    if (dup3(passed[i].get(), kFirstPassed + static_cast<int>(i), O_CLOEXEC) < 0)
      return sys_error(fmt::format("place descriptor {}", kFirstPassed + i));
  }
  return {};
}

Result<void> enter_directory(const std::string& path) {
  if (chdir(path.c_str()) != 0) return sys_error(fmt::format("chdir to cwd `{}`", path));
  return verify_working_directory();
}

Result<Program> prepare_program(const oci::Process& process,
                                const std::optional<SeccompProgram>& seccomp) {
  if (!process.no_new_privileges) TRY(load_filter(seccomp));
  // Root may enter what the user may not, and on a share that squashes root it is the other way
  // round.
  const auto entered = enter_directory(process.cwd);
  if (!entered && entered.error().sys_errno == 0) return tl::unexpected(entered.error());
  Program program;
  program.environment = complete_environment(process.env, find_home(process.user.uid));
  TRY(apply_identity(process));
  if (!entered) TRY(enter_directory(process.cwd));
  program.path = TRY(find_executable(process.args.front(), program.environment));
  return program;
}

Error run_program(const Program& program, const oci::Process& process,
                  const std::optional<SeccompProgram>& seccomp, size_t passed) {
  // Every descriptor was made close-on-exec; this is for one that was not.
  syscall(SYS_close_range, 3U, ~0U, CLOSE_RANGE_CLOEXEC);
  for (size_t i = 0; i < passed; ++i) {
    if (fcntl(kFirstPassed + static_cast<int>(i), F_SETFD, 0) != 0)
      return sys_error(fmt::format("pass descriptor {}", kFirstPassed + i)).value();
  }
  if (process.no_new_privileges) {
    if (auto loaded = load_filter(seccomp); !loaded) return std::move(loaded.error());
  }
  return execute(program.path, process.args, program.environment);
}

}  // namespace kiln::agent
