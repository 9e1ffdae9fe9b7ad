// SPDX-License-Identifier: Apache-2.0
// What `kiln create` hands to the monitor that it starts, and what comes back.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "agent/protocol/messages.h"
#include "base/error.h"
#include "base/json.h"
#include "base/unique_fd.h"
#include "oci/spec.h"
#include "runtime/cgroup/cgroup_path.h"
#include "runtime/forward_list.h"
#include "runtime/join.h"
#include "vmm/api/vm_config.h"

namespace kiln::runtime {

// What the machine's interfaces are.
enum class NetworkMode {
  kNone,       // none but `lo`
  kNamespace,  // those of the config's network namespace, or of a new one
  kPasst,      // one that pasta makes, with the host's connectivity
};

// Images of file systems that the guest overlays, in place of the config's root.path.
struct RootLayers {
  std::vector<std::string> lower;  // the uppermost first; empty: root.path it is
  std::string upper;               // gets what is written; empty: it is read-only
};

// Checked by the command: the monitor needs neither the configuration file nor its parser.
struct MonitorPlan {
  std::string id;
  std::string bundle;  // absolute
  oci::Spec spec;      // checked by check_spec
  bool pod = false;    // a pod's sandbox: no process of it runs in the guest
  RootLayers root_layers;
  bool overlay = false;
  uint64_t overlay_size_bytes = 0;
  std::optional<JoinPlan> join;  // it goes into another container's machine; the rest is unused
  std::string vmm_binary;
  vmm::VmConfig vm;  // without vsock, fs, drives and network interfaces
  NetworkMode network = NetworkMode::kNamespace;
  std::string pasta;              // the program, for kPasst
  bool host_resolv_conf = false;  // with kPasst: the container sees the host's
  unsigned spare_drives = 0;      // of the machine's spare slots, for containers that join
  unsigned spare_interfaces = 0;  // devices for interfaces that come later
  int64_t boot_timeout_ms = 0;
  std::vector<protocol::Passed> passed;  // descriptors from kPassedFd on
  size_t listen_fds = 0;                 // so many of them are LISTEN_FDS
  std::string notify_socket;             // the creator's NOTIFY_SOCKET
  pid_t notify_pid = 0;                  // what it is to watch; 0: the monitor
  std::vector<Forward> forwards;         // Unix sockets across the boundary
  bool ends_with_creator = false;        // the VM goes when the creator does
  // With process.terminal: no terminal on the host's side. Descriptor 0 is what is typed, 1 gets
  // what the guest's terminal shows, and its size comes by `resize`.
  bool direct_terminal = false;
  HostCgroup origin;   // the creator's own cgroups
  int log_level = 0;   // LogLevel
  int log_format = 0;  // LogFormat
};

std::string encode_plan(const MonitorPlan& plan);
Result<MonitorPlan> decode_plan(const std::string& text);
constexpr size_t kMaxPlanBytes = size_t{24} << 20;

// The monitor's descriptors beside the container's standard streams (0, 1, 2).
constexpr int kSyncFd = 3;  // the creator's socket: the plan, then the outcome
constexpr int kDirFd = 4;   // the container's directory, with the lock
constexpr int kLogFd = 5;
constexpr int kConsoleFd = 6;  // where the pty's master goes; only with process.terminal
constexpr int kPassedFd = 7;   // and up: what the caller passes to the container

// The outcome: an empty frame is success.
std::string encode_outcome(const Result<void>& outcome);
Result<void> decode_outcome(const std::string& text);

}  // namespace kiln::runtime
