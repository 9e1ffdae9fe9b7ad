// SPDX-License-Identifier: Apache-2.0
// runtime-spec 1.2 config-linux.md#seccomp.
#include "base/format.h"
#include "oci/enums.h"
#include "oci/rules.h"
#include "oci/tables.h"

namespace kiln::oci {
namespace {

using enum Presence;

constexpr Rule kAction{.values = kSeccompActions};
constexpr Rule kOperator{.values = kSeccompOperators};
constexpr Rule kArchitecture{.values = kSeccompArchitectures};
constexpr Rule kFlag{.values = kSeccompFlags};
constexpr Rule kIndex{.min = 0, .max = 5};
constexpr Rule kErrno{.min = 0, .max = 0xffff};  // SECCOMP_RET_DATA

constexpr Field kSyscallArgFields[] = {
    field<&SyscallArg::index>("index", kRequired, &kIndex),
    field<&SyscallArg::value>("value", kRequired),
    field<&SyscallArg::value_two>("valueTwo"),
    field<&SyscallArg::op>("op", kRequired, &kOperator),
};

constexpr Field kSyscallRuleFields[] = {
    field<&SyscallRule::names>("names", kRequired, &kNotEmpty),
    field<&SyscallRule::action>("action", kRequired, &kAction),
    field<&SyscallRule::errno_ret>("errnoRet", kOptional, &kErrno),
    field<&SyscallRule::args>("args"),
};

bool takes_errno(const std::string& action) {
  return action == "SCMP_ACT_ERRNO" || action == "SCMP_ACT_TRACE";
}

bool check_syscall_rule(Reader& reader, void* object) {
  const auto& rule = *static_cast<const SyscallRule*>(object);
  if (rule.names.empty()) return reader.fail("/names", "must not be empty");
  // "if the action does not support errnoRet, the runtime MUST generate an error"
  if (rule.errno_ret && !takes_errno(rule.action))
    return reader.fail("/errnoRet", fmt::format("is not for {}", rule.action));
  return true;
}

constexpr Field kSeccompFields[] = {
    field<&Seccomp::default_action>("defaultAction", kRequired, &kAction),
    field<&Seccomp::default_errno_ret>("defaultErrnoRet", kOptional, &kErrno),
    field<&Seccomp::architectures>("architectures", kOptional, &kArchitecture),
    field<&Seccomp::flags>("flags", kOptional, &kFlag),
    field<&Seccomp::listener_path>("listenerPath"),
    field<&Seccomp::listener_metadata>("listenerMetadata"),
    field<&Seccomp::syscalls>("syscalls"),
};

bool check_seccomp(Reader& reader, void* object) {
  const auto& seccomp = *static_cast<const Seccomp*>(object);
  if (seccomp.default_errno_ret && !takes_errno(seccomp.default_action))
    return reader.fail("/defaultErrnoRet", fmt::format("is not for {}", seccomp.default_action));
  // The runtime itself, between loading the filter and exec, could not go on.
  if (seccomp.default_action == "SCMP_ACT_NOTIFY")
    return reader.fail("/defaultAction", "must not be SCMP_ACT_NOTIFY");
  if (!seccomp.listener_path.empty() && !is_absolute_path(seccomp.listener_path))
    return reader.fail_value("/listenerPath", "must be an absolute path", seccomp.listener_path);
  if (!seccomp.listener_metadata.empty() && seccomp.listener_path.empty())
    return reader.fail("/listenerMetadata", "needs listenerPath");
  for (size_t i = 0; i < seccomp.syscalls.size(); ++i) {
    if (seccomp.syscalls[i].action != "SCMP_ACT_NOTIFY") continue;
    if (seccomp.listener_path.empty())
      return reader.fail(fmt::format("/syscalls/{}/action", i),
                         "SCMP_ACT_NOTIFY needs listenerPath");
    // The filter's descriptor is handed over with write(2)-like calls made under that filter.
    for (size_t j = 0; j < seccomp.syscalls[i].names.size(); ++j)
      if (seccomp.syscalls[i].names[j] == "write")
        return reader.fail(fmt::format("/syscalls/{}/names/{}", i, j),
                           "SCMP_ACT_NOTIFY cannot be used for write");
  }
  return true;
}

}  // namespace

constinit const Type TypeOf<SyscallArg>::kType = struct_type(kSyscallArgFields);
constinit const Type TypeOf<SyscallRule>::kType =
    struct_type(kSyscallRuleFields, check_syscall_rule);
constinit const Type TypeOf<Seccomp>::kType = struct_type(kSeccompFields, check_seccomp);

}  // namespace kiln::oci
