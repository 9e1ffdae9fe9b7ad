// SPDX-License-Identifier: Apache-2.0
#include "base/process.h"

#include <fcntl.h>
#include <link.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <climits>
#include <ctime>

#include "base/file.h"
#include "base/format.h"
#include "base/unix_socket.h"

namespace kiln {
namespace {

std::vector<char*> c_strings(const std::vector<std::string>& strings) {
  std::vector<char*> out;
  out.reserve(strings.size() + 1);
  for (const std::string& text : strings) out.push_back(const_cast<char*>(text.c_str()));
  out.push_back(nullptr);
  return out;
}

// What the child needs, prepared before fork: between fork and exec only async-signal-safe calls
// are allowed.
struct ChildPlan {
  const SpawnOptions& options;
  std::vector<char*> argv;
  std::vector<char*> environment;
  int error_fd;
  int parent_pidfd;
  // Written to /proc/self/uid_map and gid_map; empty: no new user namespace.
  std::string uid_map;
  std::string gid_map;
};

// Moves the descriptors to their places. Sources are first lifted above every target, so that none
// is overwritten.
bool place_fds(const ChildPlan& plan, int& error_fd) {
  int highest = 2;
  for (const auto& [from, to] : plan.options.fds) highest = std::max(highest, to);
  error_fd = fcntl(error_fd, F_DUPFD_CLOEXEC, highest + 1);
  if (error_fd < 0) return false;
  std::array<int, kMaxFdsPerMessage> lifted{};
  if (plan.options.fds.size() > lifted.size()) {
    errno = E2BIG;
    return false;
  }
  for (size_t i = 0; i < plan.options.fds.size(); ++i) {
    lifted[i] = fcntl(plan.options.fds[i].first, F_DUPFD_CLOEXEC, highest + 1);
    if (lifted[i] < 0) return false;
  }
  const int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null_fd < 0) return false;
  for (int fd = 0; fd <= highest; ++fd) {
    int source = fd <= 2 ? null_fd : -1;
    for (size_t i = 0; i < plan.options.fds.size(); ++i) {
      if (plan.options.fds[i].second == fd) source = lifted[i];
    }
    if (source < 0) {
      close(fd);
    } else if (source == fd) {
      fcntl(fd, F_SETFD, 0);
    } else if (dup2(source, fd) < 0) {
      return false;
    }
  }
  return syscall(SYS_close_range, static_cast<unsigned>(highest + 1), ~0U, CLOSE_RANGE_CLOEXEC) ==
         0;
}

bool write_once(const char* path, std::string_view text) {
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool written = write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  return close(fd) == 0 && written;
}

// user_namespaces(7): without privilege outside, a process maps itself alone, once it has given up
// setgroups(2).
bool map_itself(const ChildPlan& plan) {
  return plan.uid_map.empty() || (write_once("/proc/self/setgroups", "deny") &&
                                  write_once("/proc/self/uid_map", plan.uid_map) &&
                                  write_once("/proc/self/gid_map", plan.gid_map));
}

// getppid(2) would not do: in a pid namespace of one's own it is 0.
bool has_ended(int pidfd) {
  pollfd parent{pidfd, POLLIN, 0};
  return poll(&parent, 1, 0) != 0;
}

bool enter_child(const ChildPlan& plan, int& error_fd) {
  if (plan.options.parent_death_signal != 0) {
    if (prctl(PR_SET_PDEATHSIG, plan.options.parent_death_signal) != 0) return false;
    if (has_ended(plan.parent_pidfd)) _exit(127);  // before prctl
  }
  if (plan.options.network_namespace >= 0 &&
      setns(plan.options.network_namespace, CLONE_NEWNET) != 0)
    return false;
  if (!map_itself(plan)) return false;
  if (plan.options.new_session && setsid() < 0) return false;
  for (int number = 1; number < NSIG; ++number) signal(number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  if (!plan.options.working_directory.empty() && chdir(plan.options.working_directory.c_str()) != 0)
    return false;
  return place_fds(plan, error_fd);
}

[[noreturn]] void run_child(const ChildPlan& plan) {
  int error_fd = plan.error_fd;
  if (enter_child(plan, error_fd)) {
    execve(plan.options.program.c_str(), plan.argv.data(), plan.environment.data());
  }
  const int failed = errno;
  [[maybe_unused]] const ssize_t written = write(error_fd, &failed, sizeof failed);
  _exit(127);
}

// fork(2), in new namespaces. What the C library does at fork beside it (locks of its allocator,
// the thread's own number) the child does not need before exec.
pid_t fork_into(uint64_t namespaces) {
  if (namespaces == 0) return fork();
  clone_args args{};
  args.flags = namespaces;
  args.exit_signal = SIGCHLD;
  return static_cast<pid_t>(syscall(SYS_clone3, &args, sizeof args));
}

}  // namespace

Result<ChildProcess> spawn(const SpawnOptions& options) {
  std::array<int, 2> pipe_fds{};
  if (pipe2(pipe_fds.data(), O_CLOEXEC) != 0) return sys_error("create a pipe");
  const UniqueFd read_end(pipe_fds[0]);
  UniqueFd write_end(pipe_fds[1]);
  const UniqueFd parent(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  if (!parent) return sys_error("open a pidfd");
  ChildPlan plan{options, c_strings(options.argv), {}, write_end.get(), parent.get(), {}, {}};
  if ((options.namespaces & CLONE_NEWUSER) != 0) {
    plan.uid_map = fmt::format("{0} {0} 1", geteuid());
    plan.gid_map = fmt::format("{0} {0} 1", getegid());
  }
  if (options.environment) {
    plan.environment = c_strings(*options.environment);
  } else {
    for (char** entry = environ; *entry != nullptr; ++entry) plan.environment.push_back(*entry);
    plan.environment.push_back(nullptr);
  }
  const pid_t pid = fork_into(options.namespaces);
  if (pid < 0)
    return sys_error(options.namespaces == 0 ? "fork" : "create a process in new namespaces");
  if (pid == 0) run_child(plan);
  write_end.reset();
  ChildProcess child{pid, UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)))};
  int failed = 0;
  const auto got = read_fully(read_end.get(), &failed, sizeof failed);
  if (!child.pidfd || !got || *got != 0) {
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    return sys_error(fmt::format("run `{}`", options.program), failed != 0 ? failed : EIO);
  }
  return child;
}

Result<std::optional<ExitStatus>> wait_child(const ChildProcess& child, int timeout_ms) {
  pollfd waited{child.pidfd.get(), POLLIN, 0};
  const int ready = retry_eintr([&] { return poll(&waited, 1, timeout_ms); });
  if (ready < 0) return sys_error("wait for a process");
  if (ready == 0) return std::optional<ExitStatus>();
  int status = 0;
  if (retry_eintr([&] { return waitpid(child.pid, &status, 0); }) < 0)
    return sys_error("wait for a process");
  if (WIFSIGNALED(status)) return std::optional(ExitStatus{0, WTERMSIG(status)});
  return std::optional(ExitStatus{WEXITSTATUS(status), 0});
}

void kill_and_reap(ChildProcess& child) {
  if (!child.pidfd) return;
  syscall(SYS_pidfd_send_signal, child.pidfd.get(), SIGKILL, nullptr, 0);
  retry_eintr([&] { return waitpid(child.pid, nullptr, 0); });
  child.pidfd.reset();
  child.pid = -1;
}

namespace {

int64_t now_ms() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

// Feeds `input` and collects output until the program closes its output, or the deadline.
Result<std::string> exchange(UniqueFd to_child, int from_child, std::string_view input,
                             size_t max_output, int64_t deadline_ms) {
  std::string output;
  if (input.empty()) to_child.reset();
  std::array<char, 16384> buffer{};
  while (true) {
    std::array<pollfd, 2> polled{pollfd{from_child, POLLIN, 0}, pollfd{to_child.get(), POLLOUT, 0}};
    const int64_t left = deadline_ms - now_ms();
    if (left <= 0) return make_error(ErrorKind::kDeadlineExceeded, "it did not end in time");
    const int ready =
        poll(polled.data(), to_child ? 2 : 1, static_cast<int>(std::min<int64_t>(left, INT_MAX)));
    if (ready < 0 && errno != EINTR) return sys_error("poll");
    if (ready <= 0) continue;
    if (to_child && polled[1].revents != 0) {
      const ssize_t sent =
          send(to_child.get(), input.data(), input.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent > 0) input.remove_prefix(static_cast<size_t>(sent));
      if (input.empty() || (sent < 0 && errno != EAGAIN && errno != EINTR)) to_child.reset();
    }
    if (polled[0].revents != 0) {
      const ssize_t got = read(from_child, buffer.data(), buffer.size());
      if (got < 0 && errno != EINTR) return sys_error("read");
      if (got == 0) return output;
      if (got > 0) output.append(buffer.data(), static_cast<size_t>(got));
      if (output.size() > max_output)
        return make_error(ErrorKind::kOutOfRange, "it printed too much");
    }
  }
}

}  // namespace

Result<CapturedRun> run_captured(SpawnOptions options, std::string_view input, size_t max_output,
                                 int timeout_ms) {
  auto [input_here, input_there] = TRY(socket_pair(SOCK_STREAM));
  std::array<int, 2> pipe_fds{};
  if (pipe2(pipe_fds.data(), O_CLOEXEC) != 0) return sys_error("create a pipe");
  const UniqueFd output_here(pipe_fds[0]);
  UniqueFd output_there(pipe_fds[1]);
  options.fds.emplace_back(input_there.get(), 0);
  options.fds.emplace_back(output_there.get(), 1);
  const bool has_stderr = std::any_of(options.fds.begin(), options.fds.end(),
                                      [](const auto& pair) { return pair.second == 2; });
  if (!has_stderr) options.fds.emplace_back(2, 2);
  const int64_t deadline = now_ms() + timeout_ms;
  ChildProcess child = TRY(spawn(options));
  input_there.reset();
  output_there.reset();
  auto output = exchange(std::move(input_here), output_here.get(), input, max_output, deadline);
  if (output) {
    const int left = static_cast<int>(std::max<int64_t>(deadline - now_ms(), 0));
    const auto status = wait_child(child, left);
    if (status && *status) return CapturedRun{**status, std::move(*output)};
    output = make_error(ErrorKind::kDeadlineExceeded, "it did not end in time");
  }
  kill_and_reap(child);
  return tl::unexpected(std::move(output.error()).wrap(fmt::format("run `{}`", options.program)));
}

namespace {

int release_segments(dl_phdr_info* info, size_t, void*) {
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD || (segment.p_flags & PF_W) != 0) continue;
    const uintptr_t begin = (info->dlpi_addr + segment.p_vaddr) & ~(page - 1);
    const uintptr_t end = info->dlpi_addr + segment.p_vaddr + segment.p_memsz;
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
  }
  return 0;
}

}  // namespace

void release_program_pages() { dl_iterate_phdr(release_segments, nullptr); }

Result<std::string> own_executable() {
  std::array<char, PATH_MAX> buffer{};
  const ssize_t size = readlink("/proc/self/exe", buffer.data(), buffer.size());
  if (size < 0) return sys_error("read `/proc/self/exe`");
  return std::string(buffer.data(), static_cast<size_t>(size));
}

}  // namespace kiln
