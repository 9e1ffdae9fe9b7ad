// SPDX-License-Identifier: Apache-2.0
// The tables of ps(1) for processes that this host's ps cannot see.
#pragma once

#include <ctime>
#include <string>
#include <vector>

#include "agent/protocol/messages.h"
#include "base/error.h"

namespace kiln::runtime {

// What a table is about beside the processes themselves.
struct PsContext {
  time_t now = 0;
  uint64_t memory_kib = 0;
};

struct PsColumn {
  std::string header;
  size_t width = 0;  // at least
  bool right = false;
  std::string (*cell)(const protocol::ProcessInfo&, const PsContext&) = nullptr;
};

// From ps's own options: -ef (also without any), -l, aux, -o LIST and their like. Options that
// choose processes are refused: all processes of the container are shown, as runc does. A table
// without a column of pids is an error, in runc's words.
Result<std::vector<PsColumn>> ps_columns(const std::vector<std::string>& options);

// The header, then one line for each process; no blanks at the end of a line.
std::string ps_table(const std::vector<PsColumn>& columns,
                     const std::vector<protocol::ProcessInfo>& processes, const PsContext& context);

}  // namespace kiln::runtime
