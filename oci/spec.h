// SPDX-License-Identifier: Apache-2.0
// The Linux part of a runtime-spec 1.2 config.json as plain structs, named as the spec names them.
// A Spec that parse_spec returned is valid: paths that must be absolute are, enumerations (kept as
// the spec's strings) hold one of the spec's values, numbers are in range. An optional that is
// unset, an empty string, list or map stands for a member that is absent.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace kiln::oci {

using Strings = std::vector<std::string>;
using StringMap = std::map<std::string, std::string>;

struct ConsoleSize {
  uint32_t height = 0;  // characters
  uint32_t width = 0;
};

struct User {
  uint32_t uid = 0;
  uint32_t gid = 0;
  std::optional<uint32_t> umask;
  std::vector<uint32_t> additional_gids;
};

// Names as CAP_CHOWN.
struct Capabilities {
  Strings bounding;
  Strings effective;
  Strings inheritable;
  Strings permitted;
  Strings ambient;
};

struct Rlimit {
  std::string type;  // RLIMIT_NOFILE …
  uint64_t soft = 0;
  uint64_t hard = 0;
};

struct Scheduler {
  std::string policy;  // SCHED_OTHER …
  std::optional<int32_t> nice;
  std::optional<int32_t> priority;
  Strings flags;  // SCHED_FLAG_RESET_ON_FORK …
  std::optional<uint64_t> runtime;
  std::optional<uint64_t> deadline;
  std::optional<uint64_t> period;
};

struct IoPriority {
  std::string class_name;  // `class`: IOPRIO_CLASS_RT, IOPRIO_CLASS_BE, IOPRIO_CLASS_IDLE
  int32_t priority = 0;
};

struct ExecCpuAffinity {
  std::string initial;  // CPU list: 0-3,7
  std::string final;
};

struct Process {
  bool terminal = false;
  std::optional<ConsoleSize> console_size;
  std::string cwd;
  Strings env;   // KEY=value
  Strings args;  // [0]: the program; not empty in what parse_spec(…) returned
  std::vector<Rlimit> rlimits;
  User user;
  std::optional<Capabilities> capabilities;  // unset: none of any set is configured
  bool no_new_privileges = false;
  std::string apparmor_profile;
  std::string selinux_label;
  std::optional<int32_t> oom_score_adj;
  std::optional<Scheduler> scheduler;
  std::optional<IoPriority> io_priority;
  std::optional<ExecCpuAffinity> exec_cpu_affinity;
};

struct Root {
  std::string path;  // absolute, or relative to the bundle
  bool readonly = false;
};

struct IdMapping {
  uint32_t container_id = 0;
  uint32_t host_id = 0;
  uint32_t size = 0;
};

struct Mount {
  std::string destination;  // absolute
  std::string type;
  std::string source;
  Strings options;  // see oci/mount_options.h
  std::vector<IdMapping> uid_mappings;
  std::vector<IdMapping> gid_mappings;
};

struct Hook {
  std::string path;  // absolute
  Strings args;      // with argv[0]; empty: the path alone
  Strings env;
  std::optional<int32_t> timeout;  // seconds, > 0
};

struct Hooks {
  std::vector<Hook> prestart;
  std::vector<Hook> create_runtime;
  std::vector<Hook> create_container;
  std::vector<Hook> start_container;
  std::vector<Hook> poststart;
  std::vector<Hook> poststop;
};

struct Namespace {
  std::string type;  // pid, network, mount, ipc, uts, user, cgroup, time
  std::string path;  // absolute; empty: a new one
};

struct Device {
  std::string type;  // c, b, u, p
  std::string path;  // absolute
  int64_t major = 0;
  int64_t minor = 0;
  std::optional<uint32_t> file_mode;  // engines put S_IFMT bits in too: only 07777 counts
  std::optional<uint32_t> uid;
  std::optional<uint32_t> gid;
};

struct NetDevice {
  std::string name;  // in the container; empty: unchanged
};

struct DeviceRule {
  bool allow = false;
  std::string type;              // a, c, b; empty: a
  std::optional<int64_t> major;  // unset or -1: all
  std::optional<int64_t> minor;
  std::string access;  // letters of rwm
};

struct MemoryResources {
  std::optional<int64_t> limit;  // bytes; -1: unlimited
  std::optional<int64_t> reservation;
  std::optional<int64_t> swap;  // memory + swap, as cgroup v1 counts
  std::optional<int64_t> kernel;
  std::optional<int64_t> kernel_tcp;
  std::optional<uint64_t> swappiness;
  std::optional<bool> disable_oom_killer;
  std::optional<bool> use_hierarchy;
  std::optional<bool> check_before_update;
};

struct CpuResources {
  std::optional<uint64_t> shares;
  std::optional<int64_t> quota;  // µs per period; ≤ 0: unlimited
  std::optional<uint64_t> burst;
  std::optional<uint64_t> period;
  std::optional<int64_t> realtime_runtime;
  std::optional<uint64_t> realtime_period;
  std::string cpus;  // CPU list
  std::string mems;
  std::optional<int64_t> idle;
};

struct PidsResources {
  std::optional<int64_t> limit;  // ≤ 0: unlimited
};

struct WeightDevice {
  int64_t major = 0;
  int64_t minor = 0;
  std::optional<uint32_t> weight;
  std::optional<uint32_t> leaf_weight;
};

struct ThrottleDevice {
  int64_t major = 0;
  int64_t minor = 0;
  uint64_t rate = 0;  // bytes or operations a second
};

struct BlockIoResources {
  std::optional<uint32_t> weight;
  std::optional<uint32_t> leaf_weight;
  std::vector<WeightDevice> weight_device;
  std::vector<ThrottleDevice> throttle_read_bps_device;
  std::vector<ThrottleDevice> throttle_write_bps_device;
  std::vector<ThrottleDevice> throttle_read_iops_device;
  std::vector<ThrottleDevice> throttle_write_iops_device;
};

struct HugepageLimit {
  std::string page_size;  // 2MB, as in the cgroup file's name
  uint64_t limit = 0;
};

struct InterfacePriority {
  std::string name;
  uint32_t priority = 0;
};

struct NetworkResources {
  std::optional<uint32_t> class_id;
  std::vector<InterfacePriority> priorities;
};

struct RdmaLimit {
  std::optional<uint32_t> hca_handles;
  std::optional<uint32_t> hca_objects;
};

struct Resources {
  std::vector<DeviceRule> devices;
  std::optional<MemoryResources> memory;
  std::optional<CpuResources> cpu;
  std::optional<PidsResources> pids;
  std::optional<BlockIoResources> block_io;
  std::vector<HugepageLimit> hugepage_limits;
  std::optional<NetworkResources> network;
  std::map<std::string, RdmaLimit> rdma;
  StringMap unified;  // cgroup v2 file → content
};

struct SyscallArg {
  uint32_t index = 0;  // 0 … 5
  uint64_t value = 0;
  uint64_t value_two = 0;
  std::string op;  // SCMP_CMP_EQ …
};

struct SyscallRule {
  Strings names;
  std::string action;                 // SCMP_ACT_ALLOW …
  std::optional<uint32_t> errno_ret;  // unset: EPERM for SCMP_ACT_ERRNO and SCMP_ACT_TRACE
  std::vector<SyscallArg> args;
};

struct Seccomp {
  std::string default_action;
  std::optional<uint32_t> default_errno_ret;
  Strings architectures;  // SCMP_ARCH_X86_64 …
  Strings flags;          // SECCOMP_FILTER_FLAG_LOG …
  std::string listener_path;
  std::string listener_metadata;
  std::vector<SyscallRule> syscalls;
};

struct Personality {
  std::string domain;  // LINUX, LINUX32
  Strings flags;
};

struct IntelRdt {
  std::string clos_id;
  Strings schemata;
  std::string l3_cache_schema;
  std::string mem_bw_schema;
  bool enable_cmt = false;
  bool enable_mbm = false;
};

struct TimeOffset {
  int64_t secs = 0;
  uint32_t nanosecs = 0;
};

struct Linux {
  std::vector<Namespace> namespaces;
  std::vector<IdMapping> uid_mappings;
  std::vector<IdMapping> gid_mappings;
  std::vector<Device> devices;
  std::map<std::string, NetDevice> net_devices;  // host interface → in the container
  std::string cgroups_path;
  std::optional<Resources> resources;
  std::string rootfs_propagation;  // shared, slave, private, unbindable; empty: runtime's choice
  Strings masked_paths;            // absolute
  Strings readonly_paths;          // absolute
  std::optional<Personality> personality;
  std::string mount_label;
  std::optional<Seccomp> seccomp;
  StringMap sysctl;
  std::optional<IntelRdt> intel_rdt;
  std::map<std::string, TimeOffset> time_offsets;  // monotonic, boottime
};

struct Spec {
  std::string oci_version;
  std::optional<Process> process;  // needed by start, not by create
  std::optional<Root> root;        // never unset in what parse_spec returned
  std::string hostname;
  std::string domainname;
  std::vector<Mount> mounts;
  std::optional<Hooks> hooks;
  StringMap annotations;
  Linux linux;
};

// The namespace of that type in the list, or null.
const Namespace* find_namespace(const Linux& config, const std::string& type);

// Whether its rules allow every device there is: what engines call privileged.
bool allows_all_devices(const Linux& config);

}  // namespace kiln::oci
