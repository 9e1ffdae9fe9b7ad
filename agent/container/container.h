// SPDX-License-Identifier: Apache-2.0
// One container inside the guest: namespaces, root file system, cgroup, and the processes in them.
// The container's own processes are hostile to the agent; so is every path in its root file system.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::oci {
struct Spec;
struct Process;
struct Resources;
}  // namespace kiln::oci

namespace kiln::protocol {
struct StatsReply;
}  // namespace kiln::protocol

namespace kiln::agent {

// The process's ends of its standard streams. An invalid one becomes /dev/null. Ignored with
// process.terminal, where a pty of the container's own devpts is made.
struct ProcessFds {
  UniqueFd stdin_fd;
  UniqueFd stdout_fd;
  UniqueFd stderr_fd;
  // Its descriptors from 3 on; their numbers here are kAbovePassed or higher, so that none of them
  // lies where another has to go.
  std::vector<UniqueFd> passed = {};
};
constexpr int kAbovePassed = 128;

// A child of the agent (also when it lives in the container's pid namespace), so the agent's core
// reaps it. Helper processes on the way to it are children too; the core reaps pids that it does
// not know and forgets them.
struct StartedProcess {
  pid_t pid = -1;       // in the agent's pid namespace
  UniqueFd pidfd;       // readable once it has ended
  UniqueFd pty_master;  // with process.terminal
};

// A file system on a block device of the guest.
struct BlockSource {
  std::string device;  // /dev/vda
  std::string type;    // as mount(2) takes it
  bool read_only = false;
};

// Namespaces of another container or of the pod, to be joined. The descriptor is borrowed: a pidfd
// of a process that is in them, or the namespace itself.
struct SharedNamespaces {
  int fd = -1;
  int types = 0;  // CLONE_NEWIPC, CLONE_NEWUTS, CLONE_NEWPID
};

struct ContainerSetup {
  std::string id;
  const oci::Spec* spec = nullptr;              // valid; the container keeps a copy
  std::string rootfs;                           // path in the agent's mount namespace
  std::optional<BlockSource> root_device;       // in its place
  std::vector<BlockSource> root_layers;         // or these, overlaid, the uppermost first
  std::optional<BlockSource> root_upper;        // with root_layers: what gets what is written
  bool overlay = false;                         // a writable tmpfs overlay on top of it
  uint64_t overlay_size_bytes = 0;              // 0: half of the guest's memory
  std::map<size_t, std::string> bind_sources;   // index in spec->mounts → path of the source
  std::map<size_t, BlockSource> mount_devices;  // index in spec->mounts → what is mounted there
  std::vector<SharedNamespaces> shared;         // in the place of namespaces of its own
  // Index in bind_sources → version of the volume of which the container gets a copy
  // (volume_copy.h).
  std::map<size_t, std::string> volume_versions;
};

// Used by one thread. Calls block for milliseconds at most, except where they say otherwise.
class Container {
 public:
  // Everything up to the process's exec: it waits for start(). On failure nothing is left.
  static Result<std::unique_ptr<Container>> create(const ContainerSetup& setup, ProcessFds stdio);
  ~Container();  // as destroy(), errors ignored

  StartedProcess& init();

  // Lets init go: it runs the startContainer hooks and execs. Does not wait; start_fd() becomes
  // readable when exec has happened or something has failed, and then finish_start() says which.
  Result<void> begin_start();
  int start_fd() const;
  Result<void> finish_start();

  Result<StartedProcess> exec(const oci::Process& process, ProcessFds stdio);

  // Every process in the container's cgroup, and below it.
  Result<std::vector<pid_t>> processes() const;
  Result<void> signal_all(int signal);
  Result<void> freeze(bool frozen);
  Result<void> update(const oci::Resources& resources);
  // Its copy of that mount's volume goes over to another version.
  Result<void> refresh(size_t mount, const std::string& version);
  Result<protocol::StatsReply> stats() const;
  // memory.events of its cgroup: poll with EPOLLPRI, then read the number of OOM kills so far.
  int memory_events_fd() const;  // -1 without a memory controller
  Result<uint64_t> oom_kills() const;

  // The container's root, with everything that is mounted in it; -1 after release_root().
  int root_fd() const;

  // Lets go of the root file system, when every process is gone: a file system on a block device is
  // unmounted by it, unless a child of the agent that was forked before still lives.
  void release_root();

  // Kills what still runs (waits at most 10 s for the cgroup to be empty; the caller goes on
  // reaping afterwards), unmounts, removes the cgroup. Idempotent.
  Result<void> destroy();

 private:
  struct Impl;
  explicit Container(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kiln::agent
