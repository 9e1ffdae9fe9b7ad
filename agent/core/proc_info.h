// SPDX-License-Identifier: Apache-2.0
// What /proc says about processes, for `processes`. A container's process chooses its own name and
// command line.
#pragma once

#include <sys/types.h>

#include <string_view>
#include <vector>

#include "agent/protocol/messages.h"
#include "base/error.h"

namespace kiln::agent {

// The part of /proc/PID/stat (proc(5)) that we report.
struct ProcStat {
  std::string name;
  int64_t parent_pid = 0;
  uint32_t tty = 0;          // device number as the kernel encodes it
  uint64_t cpu_ticks = 0;    // user and system
  uint64_t start_ticks = 0;  // after boot
  char state = '?';
  int64_t group = 0;
  int64_t session = 0;
  int nice = 0;
  int64_t threads = 0;
  uint64_t virtual_bytes = 0;
  uint64_t resident_pages = 0;
};
Result<ProcStat> parse_proc_stat(std::string_view text);

// Device number of a controlling terminal as ps(1) shows it: "pts/3", "?" for none.
std::string tty_name(uint32_t device);

// Those of `pids` that still exist. Command lines are cut so that the reply fits
// kMaxReplyBytes; kResourceExhausted if even that does not help.
Result<protocol::ProcessesReply> describe_processes(const std::vector<pid_t>& pids);

}  // namespace kiln::agent
