// SPDX-License-Identifier: Apache-2.0
// The distribution's own programs, run to completion.
#pragma once

#include <csignal>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::runtime {

struct ToolRun {
  std::vector<std::string> argv;  // argv[0] is looked for in PATH
  std::string directory;          // to run in; empty: ours
  std::function<void()> tick;     // called several times a second while it runs
  int timeout_ms = 30 * 60 * 1000;
};

// Makes SIGINT, SIGTERM and SIGHUP end the tool that runs, and run_tool() with kCancelled, so that
// the caller can clean up. One at a time; afterwards the signals mean what they meant before.
class Interruptible {
 public:
  Interruptible();
  ~Interruptible();
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;
  static int signal_seen();  // 0: none since the last one was made

 private:
  static constexpr size_t kSignals = 3;
  struct sigaction before_[kSignals];
};

// Standard output. A failure's message ends with what the tool last said on standard error.
Result<std::string> run_tool(const ToolRun& run);

// Empty if there is no such program in PATH.
std::string find_tool(const std::string& name);

}  // namespace kiln::runtime
