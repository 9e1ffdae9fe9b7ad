// SPDX-License-Identifier: Apache-2.0
#include "agent/container/namespaces.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>

#include "base/file.h"
#include "base/format.h"

namespace kiln::agent {
namespace {

std::string map_text(const std::vector<oci::IdMapping>& mappings) {
  std::string text;
  for (const oci::IdMapping& mapping : mappings)
    text += fmt::format("{} {} {}\n", mapping.container_id, mapping.host_id, mapping.size);
  return text;
}

Result<void> write_map(pid_t pid, const char* file, const std::vector<oci::IdMapping>& mappings) {
  if (mappings.empty()) return {};
  return write_file(fmt::format("/proc/{}/{}", pid, file), map_text(mappings));
}

Result<void> join(int pidfd, int flags, const char* what) {
  if (flags != 0 && setns(pidfd, flags) != 0)
    return sys_error(fmt::format("enter the container's {}", what));
  return {};
}

}  // namespace

Result<NamespacePlan> plan_namespaces(const oci::Linux& config, uint64_t shared) {
  NamespacePlan plan;
  plan.shared = shared;
  // Without one of its own, what the container mounts would stay in the guest after it.
  plan.clone_flags = CLONE_NEWNS;
  for (const oci::Namespace& entry : config.namespaces) {
    if (entry.type == "network") continue;
    if (!entry.path.empty()) {
      return make_error(ErrorKind::kUnimplemented,
                        fmt::format("{} namespace `{}`: joining one by its path is not supported: "
                                    "it is not in this VM",
                                    entry.type, entry.path));
    }
    if (entry.type == "pid") plan.clone_flags |= CLONE_NEWPID;
    if (entry.type == "uts") plan.clone_flags |= CLONE_NEWUTS;
    if (entry.type == "ipc") plan.clone_flags |= CLONE_NEWIPC;
    if (entry.type == "user") {
      plan.clone_flags |= CLONE_NEWUSER;
      plan.user = true;
    }
    plan.cgroup |= entry.type == "cgroup";
    plan.time |= entry.type == "time";
  }
  plan.clone_flags &= ~shared;
  return plan;
}

Result<void> unshare_time(const oci::Linux& config) {
  if (unshare(CLONE_NEWTIME) != 0) return sys_error("create a time namespace");
  std::string text;
  for (const auto& [clock, offset] : config.time_offsets)
    text += fmt::format("{} {} {}\n", clock, offset.secs, offset.nanosecs);
  if (text.empty()) return {};
  return write_file("/proc/self/timens_offsets", text);
}

Result<void> write_id_maps(pid_t pid, const std::vector<oci::IdMapping>& uids,
                           const std::vector<oci::IdMapping>& gids) {
  TRY(write_map(pid, "uid_map", uids));
  return write_map(pid, "gid_map", gids);
}

Result<UniqueFd> make_user_namespace(const std::vector<oci::IdMapping>& uids,
                                     const std::vector<oci::IdMapping>& gids) {
  std::array<int, 2> fds{};
  if (pipe2(fds.data(), O_CLOEXEC) != 0) return sys_error("create a pipe");
  const UniqueFd read_end(fds[0]);
  UniqueFd write_end(fds[1]);
  const pid_t child = fork();
  if (child < 0) return sys_error("fork");
  if (child == 0) {
    const char unshared = unshare(CLONE_NEWUSER) == 0 ? 1 : 0;
    [[maybe_unused]] const ssize_t written = write(write_end.get(), &unshared, 1);
    pause();
    _exit(0);
  }
  write_end.reset();
  char unshared = 0;
  const auto got = read_fully(read_end.get(), &unshared, 1);
  Result<UniqueFd> out = sys_error("create a user namespace", EPERM);
  if (got && unshared == 1) {
    if (auto mapped = write_id_maps(child, uids, gids); !mapped)
      out = tl::unexpected(std::move(mapped.error()));
    else
      out = open_file(fmt::format("/proc/{}/ns/user", child), O_RDONLY);
  }
  ::kill(child, SIGKILL);
  retry_eintr([&] { return waitpid(child, nullptr, 0); });
  return out;
}

uint32_t map_id(const std::vector<oci::IdMapping>& mappings, uint32_t container_id) {
  if (mappings.empty()) return container_id;
  for (const oci::IdMapping& mapping : mappings) {
    if (container_id >= mapping.container_id && container_id - mapping.container_id < mapping.size)
      return mapping.host_id + (container_id - mapping.container_id);
  }
  return static_cast<uint32_t>(-1);
}

Result<void> join_shared(const std::vector<SharedNamespaces>& shared) {
  for (const SharedNamespaces& other : shared) {
    if (setns(other.fd, other.types) != 0) return sys_error("enter another container's namespaces");
  }
  return {};
}

Result<void> join_for_children(int pidfd, const NamespacePlan& plan) {
  const auto pid = static_cast<int>((plan.clone_flags | plan.shared) & CLONE_NEWPID);
  TRY(join(pidfd, pid, "pid namespace"));
  return join(pidfd, plan.time ? CLONE_NEWTIME : 0, "time namespace");
}

// In one call: the kernel checks the right to enter all of them before it enters the first.
Result<void> join_namespaces(int pidfd, const NamespacePlan& plan) {
  const auto all = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC;
  const auto flags =
      static_cast<int>((plan.clone_flags | plan.shared) & static_cast<uint64_t>(all));
  return join(pidfd, plan.cgroup ? flags | CLONE_NEWCGROUP : flags, "namespaces");
}

}  // namespace kiln::agent
