// SPDX-License-Identifier: Apache-2.0
// runtime-spec 1.2 config.md#process.
#include <algorithm>

#include "base/format.h"
#include "oci/enums.h"
#include "oci/rules.h"
#include "oci/tables.h"

namespace kiln::oci {
namespace {

using enum Presence;

constexpr Rule kTerminalSize{.min = 0, .max = 65535};  // struct winsize
constexpr Rule kUmask{.min = 0, .max = 0777};
constexpr Rule kRlimitType{.values = kRlimitTypes};
constexpr Rule kOomScoreAdj{.min = -1000, .max = 1000};
constexpr Rule kPolicy{.values = kSchedulerPolicies};
constexpr Rule kSchedulerFlag{.values = kSchedulerFlags};
constexpr Rule kNice{.min = -20, .max = 19};
constexpr Rule kPriority{.min = 0, .max = 99};
constexpr Rule kIoClass{.values = kIoPriorityClasses};
constexpr Rule kIoLevel{.min = 0, .max = 7};

constexpr Field kConsoleSizeFields[] = {
    field<&ConsoleSize::height>("height", kRequired, &kTerminalSize),
    field<&ConsoleSize::width>("width", kRequired, &kTerminalSize),
};

// The spec requires uid and gid; runc and crun take their absence as 0, and so do bundles.
constexpr Field kUserFields[] = {
    field<&User::uid>("uid", kWritten),
    field<&User::gid>("gid", kWritten),
    field<&User::umask>("umask", kOptional, &kUmask),
    field<&User::additional_gids>("additionalGids"),
};

constexpr Field kCapabilitiesFields[] = {
    field<&Capabilities::bounding>("bounding"),       field<&Capabilities::effective>("effective"),
    field<&Capabilities::inheritable>("inheritable"), field<&Capabilities::permitted>("permitted"),
    field<&Capabilities::ambient>("ambient"),
};

// config.md#linux-process: a value that the kernel does not know is warned of, not refused.
void drop_unknown(Reader& reader, const char* set, Strings& names) {
  std::erase_if(names, [&](const std::string& name) {
    if (capability_number(name)) return false;
    reader.warn(fmt::format("/{}", set), fmt::format("unknown capability `{}`, ignoring", name));
    return true;
  });
}

bool check_capabilities(Reader& reader, void* object) {
  auto& sets = *static_cast<Capabilities*>(object);
  drop_unknown(reader, "bounding", sets.bounding);
  drop_unknown(reader, "effective", sets.effective);
  drop_unknown(reader, "inheritable", sets.inheritable);
  drop_unknown(reader, "permitted", sets.permitted);
  drop_unknown(reader, "ambient", sets.ambient);
  return true;
}

constexpr Field kRlimitFields[] = {
    field<&Rlimit::type>("type", kRequired, &kRlimitType),
    field<&Rlimit::soft>("soft", kRequired),
    field<&Rlimit::hard>("hard", kRequired),
};

bool check_rlimit(Reader& reader, void* object) {
  const auto& limit = *static_cast<const Rlimit*>(object);
  if (limit.soft <= limit.hard) return true;
  return reader.fail_value("/soft", fmt::format("must not exceed hard, which is {}", limit.hard),
                           fmt::format("{}", limit.soft));
}

constexpr Field kSchedulerFields[] = {
    field<&Scheduler::policy>("policy", kRequired, &kPolicy),
    field<&Scheduler::nice>("nice", kOptional, &kNice),
    field<&Scheduler::priority>("priority", kOptional, &kPriority),
    field<&Scheduler::flags>("flags", kOptional, &kSchedulerFlag),
    field<&Scheduler::runtime>("runtime"),
    field<&Scheduler::deadline>("deadline"),
    field<&Scheduler::period>("period"),
};

// sched(7): which parameter belongs to which policy. Go's encoder leaves out zeros, so a zero that
// does not belong is harmless.
bool check_scheduler(Reader& reader, void* object) {
  const auto& scheduler = *static_cast<const Scheduler*>(object);
  const std::string& policy = scheduler.policy;
  const bool realtime = policy == "SCHED_FIFO" || policy == "SCHED_RR";
  const bool deadline = policy == "SCHED_DEADLINE";
  if (!realtime && scheduler.priority.value_or(0) != 0)
    return reader.fail("/priority", "is only for SCHED_FIFO and SCHED_RR");
  if (realtime && scheduler.priority.value_or(0) == 0)
    return reader.fail("/priority", fmt::format("must be between 1 and 99 for {}", policy));
  if (scheduler.nice.value_or(0) != 0 && policy != "SCHED_OTHER" && policy != "SCHED_BATCH")
    return reader.fail("/nice", "is only for SCHED_OTHER and SCHED_BATCH");
  if (!deadline && scheduler.runtime.value_or(0) != 0)
    return reader.fail("/runtime", "is only for SCHED_DEADLINE");
  if (!deadline && scheduler.deadline.value_or(0) != 0)
    return reader.fail("/deadline", "is only for SCHED_DEADLINE");
  if (!deadline && scheduler.period.value_or(0) != 0)
    return reader.fail("/period", "is only for SCHED_DEADLINE");
  if (!deadline) return true;
  // sched_setattr(2): runtime ≤ deadline ≤ period, where a period of 0 means the deadline.
  const uint64_t due = scheduler.deadline.value_or(0);
  if (scheduler.runtime.value_or(0) == 0)
    return reader.fail("/runtime", "is required for SCHED_DEADLINE");
  if (due < *scheduler.runtime) return reader.fail("/deadline", "must not be less than runtime");
  if (scheduler.period.value_or(0) != 0 && *scheduler.period < due)
    return reader.fail("/period", "must not be less than deadline");
  return true;
}

constexpr Field kIoPriorityFields[] = {
    field<&IoPriority::class_name>("class", kRequired, &kIoClass),
    field<&IoPriority::priority>("priority", kWritten, &kIoLevel),
};

constexpr Field kExecCpuAffinityFields[] = {
    field<&ExecCpuAffinity::initial>("initial", kOptional, &kCpuList),
    field<&ExecCpuAffinity::final>("final", kOptional, &kCpuList),
};

constexpr Field kProcessFields[] = {
    field<&Process::terminal>("terminal"),
    field<&Process::console_size>("consoleSize"),
    field<&Process::user>("user", kWritten),
    field<&Process::args>("args", kRequired),
    field<&Process::env>("env", kOptional, &kEnvironment),
    field<&Process::cwd>("cwd", kRequired, &kAbsolutePath),
    field<&Process::capabilities>("capabilities"),
    field<&Process::rlimits>("rlimits"),
    field<&Process::no_new_privileges>("noNewPrivileges"),
    field<&Process::apparmor_profile>("apparmorProfile"),
    field<&Process::selinux_label>("selinuxLabel"),
    field<&Process::oom_score_adj>("oomScoreAdj", kOptional, &kOomScoreAdj),
    field<&Process::scheduler>("scheduler"),
    field<&Process::io_priority>("ioPriority"),
    field<&Process::exec_cpu_affinity>("execCPUAffinity"),
};

bool check_process(Reader& reader, void* object) {
  const auto& process = *static_cast<const Process*>(object);
  if (process.args.empty()) return reader.fail("/args", "must not be empty");
  if (process.args[0].empty()) return reader.fail("/args/0", "must not be empty");
  // config.md#posix-process: the same rlimit type twice is an error.
  for (size_t i = 0; i < process.rlimits.size(); ++i)
    for (size_t j = 0; j < i; ++j)
      if (process.rlimits[i].type == process.rlimits[j].type)
        return reader.fail_value(fmt::format("/rlimits/{}/type", i), "must not be given twice",
                                 process.rlimits[i].type);
  return true;
}

}  // namespace

constinit const Type TypeOf<ConsoleSize>::kType = struct_type(kConsoleSizeFields);
constinit const Type TypeOf<User>::kType = struct_type(kUserFields);
constinit const Type TypeOf<Capabilities>::kType =
    struct_type(kCapabilitiesFields, check_capabilities);
constinit const Type TypeOf<Rlimit>::kType = struct_type(kRlimitFields, check_rlimit);
constinit const Type TypeOf<Scheduler>::kType = struct_type(kSchedulerFields, check_scheduler);
constinit const Type TypeOf<IoPriority>::kType = struct_type(kIoPriorityFields);
constinit const Type TypeOf<ExecCpuAffinity>::kType = struct_type(kExecCpuAffinityFields);
constinit const Type TypeOf<Process>::kType = struct_type(kProcessFields, check_process);

}  // namespace kiln::oci
