// SPDX-License-Identifier: Apache-2.0
// Starting other programs with exactly the descriptors that they are meant to have.
#pragma once

#include <sys/types.h>

#include <csignal>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln {

struct SpawnOptions {
  std::string program;                                  // a path; no search in PATH
  std::vector<std::string> argv;                        // with argv[0]
  std::optional<std::vector<std::string>> environment;  // `KEY=value`; unset: ours
  // {fd here, fd there}: 0, 1, 2 not named here become /dev/null; every other descriptor is closed.
  std::vector<std::pair<int, int>> fds;
  std::string working_directory;  // empty: ours
  int parent_death_signal =
      SIGKILL;                 // 0: outlives us. Bound to the *thread* that spawns (prctl(2)).
  bool new_session = false;    // setsid
  int network_namespace = -1;  // to enter first; borrowed. -1: ours
  // CLONE_NEW*: the child is born in new ones. With CLONE_NEWPID it is process 1 of its own, and
  // ChildProcess has our number of it. With CLONE_NEWUSER it keeps its uid and gid there, the only
  // ones that exist; the capabilities of that namespace are gone after exec unless it is root.
  uint64_t namespaces = 0;
};

// A child that we started. Destroying it neither kills nor waits.
struct ChildProcess {
  pid_t pid = -1;
  UniqueFd pidfd;  // readable once it has ended
};

// An error of execve arrives here too. Signal mask and dispositions are reset in the child.
Result<ChildProcess> spawn(const SpawnOptions& options);

struct ExitStatus {
  int code = 0;  // of exit(2), when signal is 0
  int signal = 0;
  // The shell's convention, which is also runc's: code, or 128 + signal.
  int shell_code() const { return signal != 0 ? 128 + signal : code; }
};

// Waits until the child has ended and reaps it. nullopt after `timeout_ms` (-1: for ever).
Result<std::optional<ExitStatus>> wait_child(const ChildProcess& child, int timeout_ms = -1);

// SIGKILL through the pidfd and reap; for a child that is no longer wanted.
void kill_and_reap(ChildProcess& child);

// Runs to completion and returns standard output (at most `max_output` bytes) and the status.
// Standard input is `input`; standard error is ours. Kills the program after `timeout_ms`.
struct CapturedRun {
  ExitStatus status;
  std::string output;
};
Result<CapturedRun> run_captured(SpawnOptions options, std::string_view input, size_t max_output,
                                 int timeout_ms);

// Unmaps the pages of our own program that only reading has brought in: the code of a start that
// is over. What is still needed comes back from the page cache. For processes that then wait for
// hours.
void release_program_pages();

// The running executable's own path (/proc/self/exe).
Result<std::string> own_executable();

}  // namespace kiln
