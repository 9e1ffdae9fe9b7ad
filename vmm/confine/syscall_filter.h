// SPDX-License-Identifier: Apache-2.0
// The tables of syscall_tables.h as seccomp filters. libseccomp would do it too, for 110 KiB more
// in the program and 0.2 ms a filter at every start; what the tables need of it is a page of code.
#pragma once

#include <linux/filter.h>
#include <sys/types.h>

#include <vector>

#include "base/error.h"
#include "vmm/confine/syscall_tables.h"

namespace kiln::vmm {

enum class Denial {
  kKill,  // SECCOMP_RET_KILL_PROCESS: SIGSYS for the whole process, which no handler sees
  // Says on standard error which thread made which call before the process dies by SIGSYS all the
  // same. For who writes a device (-Dseccomp_report=true): a handler runs in a process that may be
  // somebody else's by then.
  kReport,
};

#ifdef KILN_SECCOMP_REPORT
constexpr Denial kDefaultDenial = Denial::kReport;
#else
constexpr Denial kDefaultDenial = Denial::kKill;
#endif

// Whether the runtime of a sanitizer is in the program. It makes calls of its own, at any time.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif
#else
constexpr bool kSanitized = false;
#endif

// The filter's program (linux/filter.h) for a process with number `self`.
std::vector<sock_filter> assemble_filter(SyscallTable table, pid_t self, Denial denial);

// Binds the calling thread, and those that it makes from then on, to its table. Others are not
// touched: each calls this when it starts, before it has seen anything of the guest, and a thread
// that still is to make others of another kind calls it after that. Sets no_new_privs.
Result<void> install_filter(ThreadKind kind, Denial denial = kDefaultDenial);

}  // namespace kiln::vmm
