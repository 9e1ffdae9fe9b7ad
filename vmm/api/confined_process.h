// SPDX-License-Identifier: Apache-2.0
// A confined kiln-vmm as its owner sees it: how it is started, who it is on the host, how it ended.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/process.h"

namespace kiln::vmm {

// Not nobody's 65534, which owns files wherever ids have no mapping (NFS, user namespaces). 65533
// is the highest of those that neither Debian's policy nor systemd gives to anybody.
constexpr uid_t kConfinedUid = 65533;
constexpr gid_t kConfinedGid = 65533;

// Whether the calling process can make kiln-vmm somebody else at all: it has CAP_SETUID and
// CAP_SETGID, and kConfinedUid and kConfinedGid exist in its user namespace.
bool can_change_ids();

// Lets the confined kiln-vmm connect to the socket at `path`, or reach what is in the directory at
// `path`: it becomes its group's. A no-op where kiln-vmm stays who the caller is.
Result<void> admit_confined(const std::string& path);

// SpawnOptions::namespaces for kiln-vmm: a pid namespace, and for an owner without CAP_SYS_ADMIN
// the user namespace that it takes.
uint64_t vmm_namespaces();

// `kiln-vmm was killed by signal 9`. A death by SIGSYS is named for what it is: the kernel's answer
// to a system call that is not in the thread's table, by a gap in the table or by an attack.
std::string describe_end(std::string_view program, const ExitStatus& status);

}  // namespace kiln::vmm
