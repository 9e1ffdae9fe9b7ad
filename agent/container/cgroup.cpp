// SPDX-License-Identifier: Apache-2.0
#include "agent/container/cgroup.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "agent/container/cgroup_directory.h"
#include "agent/container/cgroup_settings.h"
#include "agent/container/device_filter.h"
#include "base/file.h"
#include "base/format.h"
#include "oci/spec.h"

namespace kiln::agent {
namespace {

constexpr char kParentName[] = "kiln";
constexpr int kFreezeTimeoutMs = 10000;
constexpr int kRemoveTimeoutMs = 1000;

int64_t now_ms() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1000000;
}

// The host has checked it, but it becomes a path here.
Result<void> check_id(const std::string& id) {
  constexpr std::string_view allowed =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+-.";
  if (id.empty() || id == "." || id == ".." || id.find_first_not_of(allowed) != std::string::npos)
    return invalid_argument(fmt::format("container id `{}`: cannot name a cgroup", id));
  return {};
}

// Whatever the kernel has: a container that finds its own cgroup mounted expects the controllers
// there. One that cannot be handed on is missed by the setting that needs it.
void enable_controllers(int directory) {
  const auto available = read_cgroup_file(directory, "cgroup.controllers");
  if (!available) return;
  std::string_view rest = *available;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find_first_of(" \n"), rest.size());
    if (end > 0) {
      (void)write_cgroup_file(directory, "cgroup.subtree_control",
                              fmt::format("+{}", rest.substr(0, end)));
    }
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
}

Result<UniqueFd> make_cgroup(int parent, const std::string& name) {
  if (::mkdirat(parent, name.c_str(), 0755) != 0)
    return sys_error(fmt::format("make cgroup `{}`", name));
  return open_cgroup(parent, name);
}

Result<void> write_setting(int directory, std::string_view controllers,
                           const CgroupSetting& setting) {
  if (!setting.controller.empty() && !has_word(controllers, setting.controller)) {
    if (setting.when_absent == WhenAbsent::kSkip) return {};
    return make_error(ErrorKind::kFailedPrecondition,
                      fmt::format("{}: the guest's kernel has no cgroup controller `{}`",
                                  setting.origin, setting.controller));
  }
  auto written = write_cgroup_file(directory, setting.file, setting.value);
  std::string_view value = setting.value;
  if (!written && written.error().sys_errno == ENOENT && !setting.fallback_file.empty()) {
    value = setting.fallback_value;
    written = write_cgroup_file(directory, setting.fallback_file, value);
  }
  if (written) return {};
  if (written.error().sys_errno == ENOENT) {
    if (setting.when_absent == WhenAbsent::kSkip) return {};
    return make_error(ErrorKind::kFailedPrecondition,
                      fmt::format("{}: the guest's kernel has no cgroup file `{}`", setting.origin,
                                  setting.file));
  }
  return wrap(std::move(written), fmt::format("{} `{}`", setting.origin, value));
}

Result<void> check_usage(int directory, uint64_t limit) {
  const std::string text = TRY(read_cgroup_file(directory, "memory.current"));
  const uint64_t usage = std::strtoull(text.c_str(), nullptr, 10);
  if (usage <= limit) return {};
  return make_error(ErrorKind::kFailedPrecondition,
                    fmt::format("linux.resources.memory.limit: {} bytes are below the usage of {}",
                                limit, usage));
}

}  // namespace

Result<UniqueFd> open_parent_cgroup(const std::string& root) {
  const UniqueFd root_fd = TRY(open_file(root, O_RDONLY | O_DIRECTORY));
  if (!read_cgroup_file(root_fd.get(), "cgroup.controllers")) {
    return make_error(ErrorKind::kFailedPrecondition,
                      fmt::format("`{}`: is not a cgroup v2 hierarchy", root));
  }
  enable_controllers(root_fd.get());
  if (::mkdirat(root_fd.get(), kParentName, 0755) != 0 && errno != EEXIST)
    return sys_error(fmt::format("make cgroup `{}/{}`", root, kParentName));
  UniqueFd parent = TRY(open_cgroup(root_fd.get(), kParentName));
  enable_controllers(parent.get());
  // Here, where no container can reach it; the container itself counts as one level.
  TRY(write_cgroup_file(parent.get(), "cgroup.max.depth", fmt::format("{}", kMaxCgroupDepth + 1)));
  return parent;
}

Result<Cgroup> Cgroup::create(const std::string& container_id, const oci::Spec& spec,
                              const std::string& root) {
  TRY(check_id(container_id));
  Cgroup cgroup;
  cgroup.id_ = container_id;
  cgroup.parent_ = TRY(open_parent_cgroup(root));
  auto made = make_cgroup(cgroup.parent_.get(), container_id);
  if (!made && made.error().sys_errno == EEXIST) {
    // A leftover without processes can go; one with processes is somebody's container.
    TRY(cgroup.remove());
    made = make_cgroup(cgroup.parent_.get(), container_id);
  }
  if (!made) return tl::unexpected(std::move(made.error()));
  cgroup.directory_ = std::move(*made);
  auto set_up = cgroup.set_up(spec);
  if (set_up) return cgroup;
  (void)cgroup.remove();
  return tl::unexpected(std::move(set_up.error()));
}

Result<void> Cgroup::set_up(const oci::Spec& spec) {
  if (spec.linux.intel_rdt) {
    return make_error(ErrorKind::kUnimplemented,
                      "linux.intelRdt: a microVM cannot steer the host's caches");
  }
  const std::string controllers = TRY(read_cgroup_file(fd(), "cgroup.controllers"));
  const oci::Resources none;
  const oci::Resources& resources = spec.linux.resources ? *spec.linux.resources : none;
  TRY(write_limits(controllers, resources));
  const auto filter = TRY(device_filter(resources.devices));
  TRY(attach_device_filter(fd(), filter));
  if (has_word(controllers, "memory")) {
    memory_events_ = TRY(open_beneath(fd(), "memory.events", O_RDONLY, RESOLVE_BENEATH));
  }
  return {};
}

Result<void> Cgroup::write_limits(const std::string& controllers, const oci::Resources& resources) {
  CgroupSettings settings = TRY(cgroup_settings(resources));
  if (settings.refuse_limit_below_usage) TRY(check_usage(fd(), *settings.refuse_limit_below_usage));
  for (const CgroupSetting& setting : settings.settings)
    TRY(write_setting(fd(), controllers, setting));
  warnings_ = std::move(settings.warnings);
  return {};
}

Result<void> Cgroup::update(const oci::Resources& resources) {
  return write_limits(TRY(read_cgroup_file(fd(), "cgroup.controllers")), resources);
}

Result<void> Cgroup::lift_cpu_quota() {
  const auto value = read_cgroup_file(fd(), "cpu.max");
  if (!value && value.error().sys_errno == ENOENT) return {};  // no CPU controller
  if (!value) return tl::unexpected(value.error());
  // Documentation/admin-guide/cgroup-v2.rst: "$MAX $PERIOD"; one value alone leaves the period.
  if (value->compare(0, 3, "max") == 0) return {};
  TRY(write_cgroup_file(fd(), "cpu.max", "max"));
  lifted_quota_ = value->substr(0, value->find('\n'));
  return {};
}

Result<void> Cgroup::restore_cpu_quota() {
  if (lifted_quota_.empty()) return {};
  return write_cgroup_file(fd(), "cpu.max", std::exchange(lifted_quota_, {}));
}

Result<UniqueFd> Cgroup::fd_for_new_process(pid_t neighbour) const {
  const std::string control = TRY(read_cgroup_file(fd(), "cgroup.subtree_control"));
  if (control.find_first_not_of(" \n") == std::string::npos) return open_cgroup(fd(), ".");
  // cgroups(7): v2 is hierarchy 0, and the path starts at our own cgroup namespace's root.
  const std::string text = TRY(read_file(fmt::format("/proc/{}/cgroup", neighbour)));
  const std::string own = fmt::format("0::/{}/{}/", kParentName, id_);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    if (line.size() > own.size() && line.substr(0, own.size()) == own)
      return open_cgroup(fd(), line.substr(own.size()));
    begin = end + 1;
  }
  return open_cgroup(fd(), ".");
}

Result<void> Cgroup::add(pid_t pid) {
  return wrap(write_cgroup_file(fd(), "cgroup.procs", fmt::format("{}", pid)),
              fmt::format("put process {} into cgroup `{}`", pid, id_));
}

Result<std::vector<pid_t>> Cgroup::processes() const {
  std::vector<pid_t> pids;
  TRY(collect_processes(fd(), pids));
  return pids;
}

Result<void> Cgroup::signal_all(int signal) {
  if (signal == SIGKILL) return kill();
  const std::string state = TRY(read_cgroup_file(fd(), "cgroup.freeze"));
  const bool was_frozen = !state.empty() && state[0] == '1';
  // A process stuck in the kernel can delay freezing; the others get their signal all the same.
  if (!was_frozen) (void)freeze(true);
  auto pids = processes();
  int failure = 0;
  if (pids) {
    for (const pid_t pid : *pids)
      if (::kill(pid, signal) != 0 && errno != ESRCH) failure = errno;
  }
  if (!was_frozen) TRY(freeze(false));
  if (!pids) return tl::unexpected(std::move(pids.error()));
  if (failure != 0) return sys_error(fmt::format("signal the processes of `{}`", id_), failure);
  return {};
}

Result<void> Cgroup::kill() {
  return wrap(write_cgroup_file(fd(), "cgroup.kill", "1"),
              fmt::format("kill the processes of `{}`", id_));
}

Result<void> Cgroup::freeze(bool frozen) {
  const std::string what = fmt::format("{} `{}`", frozen ? "freeze" : "thaw", id_);
  TRY(wrap(write_cgroup_file(fd(), "cgroup.freeze", frozen ? "1" : "0"), what));
  const UniqueFd events = TRY(open_beneath(fd(), "cgroup.events", O_RDONLY, RESOLVE_BENEATH));
  const int64_t deadline = now_ms() + kFreezeTimeoutMs;
  while (true) {
    if (::lseek(events.get(), 0, SEEK_SET) != 0) return sys_error(what);
    const std::string text = TRY(wrap(read_fd(events.get(), 4096), what));
    if ((TRY(keyed_number(text, "frozen")) != 0) == frozen) return {};
    const int64_t left = deadline - now_ms();
    if (left <= 0) break;
    // Reading re-arms the notification, so nothing between read and poll is lost.
    pollfd waiting{.fd = events.get(), .events = POLLPRI, .revents = 0};
    if (::poll(&waiting, 1, static_cast<int>(left)) < 0 && errno != EINTR) return sys_error(what);
  }
  if (frozen) (void)write_cgroup_file(fd(), "cgroup.freeze", "0");
  return make_error(ErrorKind::kDeadlineExceeded,
                    fmt::format("{}: not done after {} s", what, kFreezeTimeoutMs / 1000));
}

Result<bool> Cgroup::populated() const {
  const std::string text = TRY(read_cgroup_file(fd(), "cgroup.events"));
  return TRY(keyed_number(text, "populated")) != 0;
}

Result<uint64_t> Cgroup::oom_kills() const {
  if (!memory_events_) return uint64_t{0};
  // At the start of the file each time: the descriptor is polled, and stays open.
  char buffer[1024];
  const ssize_t size =
      retry_eintr([&] { return ::pread(memory_events_.get(), buffer, sizeof buffer, 0); });
  if (size < 0) return sys_error("read `memory.events`");
  return keyed_number(std::string_view(buffer, static_cast<size_t>(size)), "oom_kill");
}

Result<void> Cgroup::remove() {
  const int64_t deadline = now_ms() + kRemoveTimeoutMs;
  while (true) {
    if (::unlinkat(parent_.get(), id_.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT) break;
    if (errno != EBUSY) return sys_error(fmt::format("remove cgroup `{}`", id_));
    auto directory = open_cgroup(parent_.get(), id_);
    // Its failure shows in the next line's.
    if (directory) (void)remove_cgroups_below(directory->get());
    if (::unlinkat(parent_.get(), id_.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT) break;
    if (errno != EBUSY || now_ms() >= deadline)
      return sys_error(fmt::format("remove cgroup `{}`", id_));
    const timespec pause{.tv_sec = 0, .tv_nsec = 5'000'000};
    ::nanosleep(&pause, nullptr);
  }
  memory_events_.reset();
  directory_.reset();
  return {};
}

}  // namespace kiln::agent
