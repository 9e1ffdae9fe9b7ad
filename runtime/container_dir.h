// SPDX-License-Identifier: Apache-2.0
// <root>/<id>/: what is kept about one container, and the lock on it.
//   state.json    the record below
//   cgroup.json   its cgroup on the host, once more: this is never rewritten, and thus outlives a
//                 state.json that a crash has damaged
//   control.sock  the monitor's
//   log           of the monitor and the VM, unless --log names a file
//   vm/           the VM's vsock sockets
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "oci/spec.h"
#include "oci/state.h"
#include "runtime/cgroup/cgroup_path.h"
#include "runtime/cgroup/host_limits.h"
#include "runtime/shared_socket.h"

namespace kiln::runtime {

// A process, safe against the reuse of its pid.
struct ProcessId {
  pid_t pid = 0;
  uint64_t start_time = 0;  // /proc/<pid>/stat field 22
};
// kNotFound when there is no such process.
Result<ProcessId> identify_process(pid_t pid);
// False for a zombie too: it has ended, whether or not its parent has looked.
bool is_alive(const ProcessId& process);
// SIGKILL, and waits until it is gone. Success too when it was gone already.
Result<void> kill_process(const ProcessId& process, int timeout_ms);

// state.json: what `kiln state` prints, and what is needed to clean up after a crash.
struct ContainerRecord {
  oci::State state;  // state.pid is the monitor's
  uint64_t monitor_start_time = 0;
  bool poststop_due = false;  // hooks have begun to run for it
  bool terminal = false;
  std::vector<ProcessId> helpers;  // kiln-vmm, fs server: they die with the monitor
  std::vector<oci::Hook> poststop;
  std::optional<int> exit_code;  // set once it has ended; 128+n for a signal
  bool oom_killed = false;
  std::string sandbox;  // id of the container whose machine it is in; empty: its own
  // The network namespace that was there before us, and its interfaces that were wired to the
  // machine; empty: one of our own, which ends with the monitor.
  std::string network_path;
  std::vector<int> network_interfaces;
  // Made in directories that are shared with the guest; the monitor removes them.
  std::vector<SharedSocketRecord> shared_sockets;
  oci::Process process;  // for `exec`, which takes user, capabilities, … from here
  HostCgroup cgroup;     // no directories: none was made
  HostMachine machine;
  unsigned vcpus = 0;
  oci::Resources resources;  // of the config, with what `update` has changed

  ProcessId monitor() const { return {state.pid, monitor_start_time}; }
};
std::string encode_record(const ContainerRecord& record);
Result<ContainerRecord> decode_record(const std::string& text);

// As runc checks it.
Result<void> check_container_id(const std::string& id);

class ContainerDir {
 public:
  // Makes it and locks it. kAlreadyExists.
  static Result<ContainerDir> create(const std::string& root, const std::string& id);
  // kNotFound: `container does not exist`. Takes no lock.
  static Result<ContainerDir> open(const std::string& root, const std::string& id);
  // Adopts a descriptor that already holds the lock.
  ContainerDir(std::string path, UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}

  const std::string& path() const { return path_; }
  std::string id() const;
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  std::string control_socket() const { return file("control.sock"); }
  std::string vsock_socket() const { return file("vm/vsock"); }
  // The directory of another container under the same root.
  std::string sibling(const std::string& id) const;
  int fd() const { return fd_.get(); }

  // Whoever creates or deletes it holds the lock meanwhile; false: somebody else does. The lock
  // belongs to the open file, so that a monitor inherits it and a crash releases it.
  Result<bool> try_lock();
  void unlock();
  // Whether the path still leads to this directory.
  bool still_there() const;

  // kNotFound without a record: its creator died early.
  Result<ContainerRecord> read_record() const;
  Result<void> write_record(const ContainerRecord& record) const;
  Result<void> write_cgroup(const HostCgroup& cgroup) const;
  Result<HostCgroup> read_cgroup() const;
  // The record with the status that holds now: `stopped` if the monitor is gone.
  Result<ContainerRecord> current_record() const;

  // Removes the directory with everything in it.
  Result<void> remove();

 private:
  std::string path_;
  UniqueFd fd_;
};

// Ids under `root`, sorted. An absent root has none.
Result<std::vector<std::string>> list_containers(const std::string& root);

}  // namespace kiln::runtime
