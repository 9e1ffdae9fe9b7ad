// SPDX-License-Identifier: Apache-2.0
// The container's cgroup (v2) in the guest: limits, device access, freezing and killing. What is
// below it belongs to the container, which may nest cgroups of its own and name them as it likes.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::oci {
struct Resources;
struct Spec;
}  // namespace kiln::oci

namespace kiln::agent {

inline constexpr char kCgroupRoot[] = "/sys/fs/cgroup";

// <root>/kiln, in which every container's is; made if there is none yet.
Result<UniqueFd> open_parent_cgroup(const std::string& root = kCgroupRoot);

// Owns <root>/kiln/<id>; destroying the object does not remove it. Used by one thread.
class Cgroup {
 public:
  // Makes the cgroup with every limit of spec.linux.resources in force and the device filter
  // attached. A cgroup of that name left over from before is removed if
  // it has no processes.
  // On failure nothing is left. `root`: where the v2 hierarchy is mounted.
  static Result<Cgroup> create(const std::string& container_id, const oci::Spec& spec,
                               const std::string& root = kCgroupRoot);

  Cgroup(Cgroup&&) noexcept = default;
  Cgroup& operator=(Cgroup&&) noexcept = default;

  // O_RDONLY | O_DIRECTORY, for CLONE_INTO_CGROUP.
  int fd() const { return directory_.get(); }

  // For a further process: the cgroup itself or, if the container has moved its own processes into
  // cgroups below (v2 forbids processes in inner nodes), the one in which `neighbour` is.
  Result<UniqueFd> fd_for_new_process(pid_t neighbour) const;

  Result<void> add(pid_t pid);

  // Process ids as the caller's pid namespace sees them, of this cgroup and all below.
  Result<std::vector<pid_t>> processes() const;

  // Each process exactly once, and none born in between escapes: frozen meanwhile, unless `signal`
  // is SIGKILL, which is kill(). A frozen container stays frozen.
  Result<void> signal_all(int signal);
  Result<void> kill();

  // Returns when it is so. Gives up, and thaws, after 10 s.
  Result<void> freeze(bool frozen);

  // Setting a container up is our work, which a small quota would draw out to minutes. To be
  // restored before its first program runs; no error where there is none.
  Result<void> lift_cpu_quota();
  Result<void> restore_cpu_quota();

  // Limits that change while it runs; what is absent stays. Devices are not among them.
  Result<void> update(const oci::Resources& resources);

  // cgroup.events: is a living process in it or below?
  Result<bool> populated() const;

  // memory.events: poll with EPOLLPRI. -1 without a memory controller.
  int memory_events_fd() const { return memory_events_.get(); }
  Result<uint64_t> oom_kills() const;

  // Removes it and all below; waits at most a second for killed processes to be gone. No error if
  // it does not exist.
  Result<void> remove();

  // What the config asked for and cgroup v2 does without; for the log.
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  Cgroup() = default;
  Result<void> set_up(const oci::Spec& spec);
  Result<void> write_limits(const std::string& controllers, const oci::Resources& resources);

  std::string id_;
  UniqueFd parent_;           // <root>/kiln
  UniqueFd directory_;        // <root>/kiln/<id>
  UniqueFd memory_events_;    // invalid without a memory controller
  std::string lifted_quota_;  // cpu.max as it is to be; empty: as it is
  std::vector<std::string> warnings_;
};

}  // namespace kiln::agent
