// SPDX-License-Identifier: Apache-2.0
#include "runtime/cgroup/host_cgroup.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <csignal>
#include <ctime>
#include <memory>
#include <set>

#include "base/file.h"
#include "base/format.h"
#include "base/log.h"

namespace kiln::runtime {
namespace {

constexpr int kMaxDepth = 64;
constexpr int64_t kRemoveTimeoutMs = 10'000;
constexpr int kPollMs = 5;

int64_t now_ms() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

// A removed cgroup answers ENODEV where a removed directory answers ENOENT.
bool has_vanished(const Error& error) {
  return error.sys_errno == ENOENT || error.sys_errno == ENODEV;
}

bool is_permission_error(const Error& error) {
  return error.sys_errno == EACCES || error.sys_errno == EPERM || error.sys_errno == EROFS;
}

bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

std::vector<std::string> children_of(const std::string& directory) {
  std::vector<std::string> out;
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(opendir(directory.c_str()), closedir);
  if (!stream) return out;
  while (const dirent* entry = readdir(stream.get())) {
    const std::string_view name = entry->d_name;
    if (entry->d_type == DT_DIR && name != "." && name != "..")
      out.push_back(directory + "/" + entry->d_name);
  }
  return out;
}

void add_pids(std::string_view text, std::set<pid_t>& out) {
  while (!text.empty()) {
    pid_t pid = 0;
    const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), pid);
    if (failed == std::errc()) out.insert(pid);  // 0: of a pid namespace that is not below ours
    const size_t newline = text.find('\n');
    text.remove_prefix(newline == std::string_view::npos ? text.size() : newline + 1);
  }
}

Result<void> collect_pids(const std::string& directory, std::set<pid_t>& out, int depth = 0) {
  if (depth > kMaxDepth)
    return make_error(ErrorKind::kResourceExhausted,
                      fmt::format("cgroups below `{}` are nested too deeply", directory));
  const auto text = read_file(directory + "/cgroup.procs");
  if (text) {
    add_pids(*text, out);
  } else if (!has_vanished(text.error()) && text.error().sys_errno != EOPNOTSUPP) {
    return tl::unexpected(text.error());
  }
  for (const std::string& child : children_of(directory)) TRY(collect_pids(child, out, depth + 1));
  return {};
}

Result<std::set<pid_t>> processes_of(const HostCgroup& cgroup) {
  std::set<pid_t> pids;
  for (const auto& [controller, directory] : cgroup.directories)
    TRY(wrap(collect_pids(directory, pids), "unable to get cgroup PIDs"));
  return pids;
}

// v1: a new cpuset has neither CPUs nor memory, and takes no process before it has both.
Result<void> inherit_cpuset(const std::string& directory, const char* file, int depth = 0) {
  const std::string own = TRY(read_file(directory + file));
  if (own.find_first_not_of(" \n") != std::string::npos || depth > kMaxDepth) return {};
  const std::string parent = directory.substr(0, directory.rfind('/'));
  TRY(inherit_cpuset(parent, file, depth + 1));
  return write_file(directory + file, TRY(read_file(parent + file)));
}

// v2: what the cgroup above has, those below it may have too. One that cannot be handed on is
// missed by the limit that needs it.
void hand_controllers_on(const std::string& directory) {
  const auto available = read_file(directory + "/cgroup.controllers");
  if (!available) return;
  for (size_t begin = 0; begin < available->size();) {
    const size_t end = std::min(available->find_first_of(" \n", begin), available->size());
    if (end > begin) {
      static_cast<void>(write_file(directory + "/cgroup.subtree_control",
                                   "+" + available->substr(begin, end - begin)));
    }
    begin = end + 1;
  }
}

// Each level by itself, from the top.
Result<void> make_levels(const HostCgroup& cgroup, const std::string& controller,
                         const std::string& directory, int depth = 0) {
  if (depth > kMaxDepth)
    return invalid_argument(fmt::format("cgroup `{}` is nested too deeply", directory));
  const std::string parent = directory.substr(0, directory.rfind('/'));
  // Every level of v2 has to have its controllers from the one above, those that exist included.
  const bool below_another = cgroup.unified && exists(parent + "/cgroup.controllers");
  const bool missing = !exists(directory);
  if (!parent.empty() && (below_another || missing))
    TRY(make_levels(cgroup, controller, parent, depth + 1));
  if (cgroup.unified) hand_controllers_on(parent);
  if (missing && mkdir(directory.c_str(), 0755) != 0 && errno != EEXIST)
    return sys_error(fmt::format("mkdir `{}`", directory));
  if (controller != "cpuset") return {};
  TRY(inherit_cpuset(directory, "/cpuset.cpus"));
  return inherit_cpuset(directory, "/cpuset.mems");
}

// v2 controllers have no directory of their own.
Result<std::string> directory_for(const HostCgroup& cgroup, const std::string& controller) {
  const auto found = cgroup.directories.find(cgroup.unified ? "" : controller);
  if (found != cgroup.directories.end()) return found->second;
  return make_error(
      ErrorKind::kFailedPrecondition,
      fmt::format("cannot set {} limit: container could not join or create cgroup", controller));
}

Result<void> write_limit(const std::string& directory, const HostLimit& limit) {
  std::string path = directory + "/" + limit.file;
  std::string value = limit.value;
  if (!exists(path) && !limit.fallback_file.empty()) {
    path = directory + "/" + limit.fallback_file;
    value = limit.fallback_value;
  }
  if (limit.may_be_absent && !exists(path)) return {};
  return wrap(write_file(path, value), fmt::format("failed to write \"{}\"", value));
}

// Through a pidfd that is opened before the last look, so that a number that has been used again is
// not taken for the process that had it.
void kill_listed(const HostCgroup& cgroup, const std::set<pid_t>& pids) {
  for (const pid_t pid : pids) {
    if (pid <= 0 || pid == getpid()) continue;
    const UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
    if (!pidfd) continue;
    const auto still = processes_of(cgroup);
    if (still && still->contains(pid))
      syscall(SYS_pidfd_send_signal, pidfd.get(), SIGKILL, nullptr, 0);
  }
}

void thaw(const HostCgroup& cgroup) {
  if (cgroup.unified) return;  // v2 kills frozen processes too
  const auto freezer = cgroup.directories.find("freezer");
  if (freezer != cgroup.directories.end())
    static_cast<void>(write_file(freezer->second + "/freezer.state", "THAWED"));
}

Result<void> kill_processes(const HostCgroup& cgroup, int64_t deadline) {
  while (true) {
    std::set<pid_t> pids = TRY(processes_of(cgroup));
    pids.erase(getpid());
    if (pids.empty()) return {};
    if (now_ms() >= deadline)
      return make_error(
          ErrorKind::kDeadlineExceeded,
          fmt::format("{} process(es) of the container's cgroup do not die", pids.size()));
    const auto v2 = cgroup.directories.find("");
    const bool at_once =
        v2 != cgroup.directories.end() && write_file(v2->second + "/cgroup.kill", "1").has_value();
    thaw(cgroup);
    if (!at_once || !cgroup.unified) kill_listed(cgroup, pids);
    poll(nullptr, 0, kPollMs);
  }
}

Result<void> remove_tree(const std::string& directory, int64_t deadline, int depth = 0) {
  if (depth > kMaxDepth)
    return make_error(ErrorKind::kResourceExhausted,
                      fmt::format("cgroups below `{}` are nested too deeply", directory));
  while (rmdir(directory.c_str()) != 0) {
    if (errno == ENOENT) return {};
    if (errno != EBUSY || now_ms() >= deadline)
      return sys_error(fmt::format("remove cgroup `{}`", directory));
    for (const std::string& child : children_of(directory))
      TRY(remove_tree(child, deadline, depth + 1));
    // The last process's end takes the kernel a moment more than its being gone from the list.
    poll(nullptr, 0, kPollMs);
  }
  return {};
}

}  // namespace

Result<void> check_cgroup_is_free(const HostCgroup& cgroup) {
  const size_t found = TRY(processes_of(cgroup)).size();
  if (found != 0)
    return make_error(ErrorKind::kFailedPrecondition,
                      fmt::format("container's cgroup is not empty: {} process(es) found", found));
  const char* controller = cgroup.unified ? "" : "freezer";
  const auto freezer = cgroup.directories.find(controller);
  if (freezer == cgroup.directories.end()) return {};
  const auto state =
      read_file(freezer->second + (cgroup.unified ? "/cgroup.freeze" : "/freezer.state"));
  if (state && state->starts_with(cgroup.unified ? "1" : "FROZEN"))
    return make_error(ErrorKind::kFailedPrecondition, "container's cgroup unexpectedly frozen");
  return {};
}

Result<void> make_cgroup(HostCgroup& cgroup, bool tolerant) {
  for (auto entry = cgroup.directories.begin(); entry != cgroup.directories.end();) {
    auto made = make_levels(cgroup, entry->first, entry->second);
    if (made) {
      ++entry;
    } else if (tolerant && is_permission_error(made.error())) {
      entry = cgroup.directories.erase(entry);
    } else {
      return made;
    }
  }
  return {};
}

Result<void> write_limits(const HostCgroup& cgroup, const std::vector<HostLimit>& limits) {
  std::vector<const HostLimit*> again;
  for (const HostLimit& limit : limits) {
    const std::string directory = TRY(directory_for(cgroup, limit.controller));
    auto written = write_limit(directory, limit);
    // v1: neither may memory exceed memory + swap, nor a quota what its period allows, at any time.
    if (!written && written.error().sys_errno == EINVAL && !cgroup.unified) {
      again.push_back(&limit);
    } else if (!written) {
      return written;
    }
  }
  for (const HostLimit* limit : again)
    TRY(write_limit(TRY(directory_for(cgroup, limit->controller)), *limit));
  return {};
}

Result<void> enter_cgroup(HostCgroup& cgroup, pid_t pid, bool tolerant) {
  for (auto entry = cgroup.directories.begin(); entry != cgroup.directories.end();) {
    auto entered = write_file(entry->second + "/cgroup.procs", fmt::format("{}", pid));
    if (entered) {
      ++entry;
    } else if (tolerant && is_permission_error(entered.error())) {
      static_cast<void>(rmdir(entry->second.c_str()));
      entry = cgroup.directories.erase(entry);
    } else {
      return wrap(std::move(entered), "enter the container's cgroup");
    }
  }
  return {};
}

void leave_cgroup(const HostCgroup& cgroup, const HostCgroup& origin) {
  const std::string self = fmt::format("{}", getpid());
  for (const auto& [controller, directory] : cgroup.directories) {
    const auto home = origin.directories.find(controller);
    if (home == origin.directories.end()) continue;
    std::string target = home->second;
    // It may have gone with whoever started us.
    while (!exists(target + "/cgroup.procs") && target.rfind('/') > 0)
      target.resize(target.rfind('/'));
    if (const auto left = write_file(target + "/cgroup.procs", self); !left)
      log_warning("leave `{}`: {}, ignoring", directory, left.error().message);
  }
}

Result<void> remove_cgroup(const HostCgroup& cgroup) {
  const int64_t deadline = now_ms() + kRemoveTimeoutMs;
  TRY(kill_processes(cgroup, deadline));
  Result<void> outcome;
  for (const auto& [controller, directory] : cgroup.directories) {
    auto removed = remove_tree(directory, deadline);
    if (!removed && outcome) outcome = std::move(removed);
  }
  return outcome;
}

}  // namespace kiln::runtime
