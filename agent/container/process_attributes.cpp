// SPDX-License-Identifier: Apache-2.0
#include "agent/container/process_attributes.h"

#include <grp.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "base/file.h"
#include "base/format.h"
#include "oci/enums.h"
#include "oci/spec.h"

namespace kiln::agent {
namespace {

struct NamedNumber {
  const char* name;
  int number;
};

// ioprio_set(2). <linux/ioprio.h> cannot be read by C++: it has a parameter named `class`.
constexpr int kIoPriorityWhoProcess = 1;
constexpr int kIoPriorityClassShift = 13;
constexpr int kIoPriorityLevels = 8;
enum IoPriorityClass { kIoRealTime = 1, kIoBestEffort = 2, kIoIdle = 3 };

constexpr NamedNumber kRlimits[] = {
    {"RLIMIT_AS", RLIMIT_AS},
    {"RLIMIT_CORE", RLIMIT_CORE},
    {"RLIMIT_CPU", RLIMIT_CPU},
    {"RLIMIT_DATA", RLIMIT_DATA},
    {"RLIMIT_FSIZE", RLIMIT_FSIZE},
    {"RLIMIT_LOCKS", RLIMIT_LOCKS},
    {"RLIMIT_MEMLOCK", RLIMIT_MEMLOCK},
    {"RLIMIT_MSGQUEUE", RLIMIT_MSGQUEUE},
    {"RLIMIT_NICE", RLIMIT_NICE},
    {"RLIMIT_NOFILE", RLIMIT_NOFILE},
    {"RLIMIT_NPROC", RLIMIT_NPROC},
    {"RLIMIT_RSS", RLIMIT_RSS},
    {"RLIMIT_RTPRIO", RLIMIT_RTPRIO},
    {"RLIMIT_RTTIME", RLIMIT_RTTIME},
    {"RLIMIT_SIGPENDING", RLIMIT_SIGPENDING},
    {"RLIMIT_STACK", RLIMIT_STACK},
};

// No SCHED_ISO: the kernel has reserved that number and implemented nothing.
constexpr NamedNumber kPolicies[] = {
    {"SCHED_OTHER", SCHED_OTHER}, {"SCHED_FIFO", SCHED_FIFO}, {"SCHED_RR", SCHED_RR},
    {"SCHED_BATCH", SCHED_BATCH}, {"SCHED_IDLE", SCHED_IDLE}, {"SCHED_DEADLINE", SCHED_DEADLINE},
};

constexpr NamedNumber kSchedulerFlags[] = {
    {"SCHED_FLAG_RESET_ON_FORK", SCHED_FLAG_RESET_ON_FORK},
    {"SCHED_FLAG_RECLAIM", SCHED_FLAG_RECLAIM},
    {"SCHED_FLAG_DL_OVERRUN", SCHED_FLAG_DL_OVERRUN},
    {"SCHED_FLAG_KEEP_POLICY", SCHED_FLAG_KEEP_POLICY},
    {"SCHED_FLAG_KEEP_PARAMS", SCHED_FLAG_KEEP_PARAMS},
    {"SCHED_FLAG_UTIL_CLAMP_MIN", SCHED_FLAG_UTIL_CLAMP_MIN},
    {"SCHED_FLAG_UTIL_CLAMP_MAX", SCHED_FLAG_UTIL_CLAMP_MAX},
};

constexpr NamedNumber kIoClasses[] = {
    {"IOPRIO_CLASS_RT", kIoRealTime},
    {"IOPRIO_CLASS_BE", kIoBestEffort},
    {"IOPRIO_CLASS_IDLE", kIoIdle},
};

template <size_t size>
Result<int> number_of(const NamedNumber (&table)[size], std::string_view name,
                      std::string_view what) {
  for (const NamedNumber& entry : table)
    if (name == entry.name) return entry.number;
  return invalid_argument(fmt::format("{} `{}`: the guest's kernel has no such", what, name));
}

Result<void> apply_rlimits(const oci::Process& process) {
  for (const oci::Rlimit& limit : process.rlimits) {
    const int resource = TRY(number_of(kRlimits, limit.type, "process.rlimits"));
    const struct rlimit value { .rlim_cur = limit.soft, .rlim_max = limit.hard };
    if (::setrlimit(static_cast<__rlimit_resource>(resource), &value) != 0) {
      return sys_error(fmt::format("set `{}` to {} and {}", limit.type, limit.soft, limit.hard));
    }
  }
  return {};
}

// <linux/sched/types.h> cannot be had beside <sched.h>, which lacks it.
struct SchedulerAttributes {
  uint32_t size = sizeof(SchedulerAttributes);
  uint32_t policy = 0;
  uint64_t flags = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t runtime = 0;
  uint64_t deadline = 0;
  uint64_t period = 0;
  uint32_t util_min = 0;
  uint32_t util_max = 0;
};
static_assert(sizeof(SchedulerAttributes) == 56, "SCHED_ATTR_SIZE_VER1");

Result<void> apply_scheduler(const oci::Scheduler& scheduler) {
  SchedulerAttributes attributes;
  attributes.policy = static_cast<uint32_t>(
      TRY(number_of(kPolicies, scheduler.policy, "process.scheduler.policy")));
  for (const std::string& flag : scheduler.flags) {
    attributes.flags |=
        static_cast<uint64_t>(TRY(number_of(kSchedulerFlags, flag, "process.scheduler.flags")));
  }
  attributes.nice = scheduler.nice.value_or(0);
  attributes.priority = static_cast<uint32_t>(scheduler.priority.value_or(0));
  attributes.runtime = scheduler.runtime.value_or(0);
  attributes.deadline = scheduler.deadline.value_or(0);
  attributes.period = scheduler.period.value_or(0);
  if (::syscall(SYS_sched_setattr, 0, &attributes, 0) != 0)
    return sys_error(fmt::format("set scheduler `{}`", scheduler.policy));
  return {};
}

Result<void> apply_io_priority(const oci::IoPriority& priority) {
  const int io_class = TRY(number_of(kIoClasses, priority.class_name, "process.ioPriority.class"));
  // ioprio_set(2): the level has no meaning in the idle class.
  const int level = io_class == kIoIdle ? 0 : priority.priority;
  if (level < 0 || level >= kIoPriorityLevels) {
    return invalid_argument(
        fmt::format("process.ioPriority.priority: must be 0 to 7, is {}", priority.priority));
  }
  const int value = io_class << kIoPriorityClassShift | level;
  if (::syscall(SYS_ioprio_set, kIoPriorityWhoProcess, 0, value) != 0) {
    return sys_error(
        fmt::format("set I/O priority `{}`, {}", priority.class_name, priority.priority));
  }
  return {};
}

// A CPU list, as oci validates it: 0-3,7.
Result<cpu_set_t> parse_cpu_list(const std::string& list) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  for (const char* at = list.c_str(); *at != '\0';) {
    char* end = nullptr;
    const unsigned long first = std::strtoul(at, &end, 10);
    unsigned long last = first;
    if (end != at && *end == '-') last = std::strtoul(at = end + 1, &end, 10);
    if (end == at || last < first || last >= CPU_SETSIZE || (*end != ',' && *end != '\0'))
      return invalid_argument(
          fmt::format("`{}`: is not a list of CPUs below {}", list, CPU_SETSIZE));
    for (unsigned long cpu = first; cpu <= last; ++cpu) CPU_SET(cpu, &cpus);
    at = *end == ',' ? end + 1 : end;
  }
  return cpus;
}

using CapabilitySet = uint64_t;

CapabilitySet set_of(const oci::Strings& names) {
  CapabilitySet set = 0;
  for (const std::string& name : names) {
    const auto number = oci::capability_number(name);
    // A capability that is newer than the kernel counts as unknown: EINVAL.
    if (number && ::prctl(PR_CAPBSET_READ, *number, 0, 0, 0) >= 0)
      set |= CapabilitySet{1} << *number;
  }
  return set;
}

Result<void> drop_from_bounding_set(CapabilitySet kept) {
  for (unsigned capability = 0; capability < 64; ++capability) {
    const int present = ::prctl(PR_CAPBSET_READ, capability, 0, 0, 0);
    if (present < 0) return {};  // beyond the kernel's last one
    if (present == 0 || (kept >> capability & 1) != 0) continue;
    if (::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0)
      return sys_error(fmt::format("drop capability {} from the bounding set", capability));
  }
  return {};
}

Result<void> set_capabilities(CapabilitySet permitted, CapabilitySet effective,
                              CapabilitySet inheritable) {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
  for (unsigned i = 0; i < _LINUX_CAPABILITY_U32S_3; ++i) {
    data[i].permitted = static_cast<uint32_t>(permitted >> (32 * i));
    data[i].effective = static_cast<uint32_t>(effective >> (32 * i));
    data[i].inheritable = static_cast<uint32_t>(inheritable >> (32 * i));
  }
  if (::syscall(SYS_capset, &header, data) != 0) return sys_error("set capabilities");
  return {};
}

Result<void> set_ambient(CapabilitySet ambient) {
  if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0)
    return sys_error("clear the ambient capabilities");
  for (unsigned capability = 0; capability < 64; ++capability) {
    if ((ambient >> capability & 1) == 0) continue;
    if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0) != 0) {
      // The config that `runc spec` writes asks for ambient capabilities that are not inheritable;
      // runc goes without them.
      if (errno == EPERM) continue;
      return sys_error(
          fmt::format("raise ambient capability `{}`", oci::kCapabilities[capability]));
    }
  }
  return {};
}

Result<void> set_user(const oci::User& user) {
  const auto& groups = user.additional_gids;
  // Without CAP_SETGID over the namespace setgroups fails even for the empty list; that is an error
  // only if there is a group to get rid of.
  if (::setgroups(groups.size(), groups.data()) != 0) {
    const int failure = errno;
    if (failure != EPERM || !groups.empty() || ::getgroups(0, nullptr) != 0)
      return sys_error("set additional groups", failure);
  }
  if (::setresgid(user.gid, user.gid, user.gid) != 0)
    return sys_error(fmt::format("set group id {}", user.gid));
  if (::setresuid(user.uid, user.uid, user.uid) != 0)
    return sys_error(fmt::format("set user id {}", user.uid));
  return {};
}

}  // namespace

Result<std::vector<std::string>> check_process(const oci::Process& process) {
  if (!process.apparmor_profile.empty() && process.apparmor_profile != "unconfined") {
    return make_error(ErrorKind::kUnimplemented,
                      fmt::format("process.apparmorProfile `{}`: the guest has no AppArmor",
                                  process.apparmor_profile));
  }
  if (!process.selinux_label.empty()) {
    return make_error(
        ErrorKind::kUnimplemented,
        fmt::format("process.selinuxLabel `{}`: the guest has no SELinux", process.selinux_label));
  }
  std::vector<std::string> warnings;
  if (!process.capabilities) return warnings;
  const oci::Capabilities& sets = *process.capabilities;
  for (const oci::Strings* names :
       {&sets.bounding, &sets.effective, &sets.inheritable, &sets.permitted, &sets.ambient}) {
    for (const std::string& name : *names) {
      const auto number = oci::capability_number(name);
      if (number && ::prctl(PR_CAPBSET_READ, *number, 0, 0, 0) >= 0) continue;
      std::string text = fmt::format("process.capabilities: unknown capability `{}`", name);
      if (std::find(warnings.begin(), warnings.end(), text) == warnings.end())
        warnings.push_back(std::move(text));
    }
  }
  // capabilities(7): the kernel raises an ambient capability only if it is in both other sets.
  if ((set_of(sets.ambient) & ~(set_of(sets.permitted) & set_of(sets.inheritable))) != 0) {
    warnings.push_back(
        "process.capabilities.ambient: holds what is not both permitted and inheritable");
  }
  return warnings;
}

Result<void> apply_limits(const oci::Process& process) {
  if (process.oom_score_adj) {
    TRY(wrap(write_file("/proc/self/oom_score_adj", fmt::format("{}", *process.oom_score_adj)),
             "process.oomScoreAdj"));
  }
  if (process.scheduler) TRY(apply_scheduler(*process.scheduler));
  if (process.io_priority) TRY(apply_io_priority(*process.io_priority));
  // Last: a small RLIMIT_NOFILE or RLIMIT_AS would be in the way of the others.
  return apply_rlimits(process);
}

Result<void> apply_exec_affinity(const oci::Process& process) {
  // `initial` is for the time before the process is in its cgroup. CLONE_INTO_CGROUP leaves no such
  // time, and without `final` the cpuset's own CPUs are the ones that the spec asks for.
  if (!process.exec_cpu_affinity || process.exec_cpu_affinity->final.empty()) return {};
  const std::string& list = process.exec_cpu_affinity->final;
  const cpu_set_t cpus = TRY(wrap(parse_cpu_list(list), "process.execCPUAffinity.final"));
  if (::sched_setaffinity(0, sizeof cpus, &cpus) != 0)
    return sys_error(fmt::format("process.execCPUAffinity.final: run on CPUs `{}`", list));
  return {};
}

Result<void> apply_identity(const oci::Process& process) {
  TRY(check_process(process));
  ::umask(static_cast<mode_t>(process.user.umask.value_or(0022)));
  if (process.no_new_privileges && ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
    return sys_error("set no_new_privs");

  // Without the member there are no capabilities at all, as with runc.
  const oci::Capabilities none;
  const oci::Capabilities& sets = process.capabilities ? *process.capabilities : none;
  // Dropping from the bounding set needs CAP_SETPCAP, which setuid would take.
  TRY(drop_from_bounding_set(set_of(sets.bounding)));
  // The permitted set has to live through setuid, for what is left to do after it.
  if (::prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0) return sys_error("keep capabilities");
  TRY(set_user(process.user));
  if (::prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) != 0) return sys_error("stop keeping capabilities");

  const CapabilitySet permitted = set_of(sets.permitted);
  const CapabilitySet inheritable = set_of(sets.inheritable);
  TRY(set_capabilities(permitted, set_of(sets.effective), inheritable));
  return set_ambient(set_of(sets.ambient));
}

}  // namespace kiln::agent
