// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>

#include "base/process.h"

namespace kiln::agent {

// Collects every child that has ended, as PID 1 must: also those that were never ours to begin
// with.
class Reaper {
 public:
  using Callback = std::function<void(const ExitStatus& status)>;

  // `callback` once `pid`, a child that has not been reaped yet, has been. It may call expect().
  void expect(pid_t pid, Callback callback) { expected_[pid] = std::move(callback); }
  void forget(pid_t pid) { expected_.erase(pid); }
  // Call it at each SIGCHLD.
  void reap();

 private:
  std::map<pid_t, Callback> expected_;
};

}  // namespace kiln::agent
