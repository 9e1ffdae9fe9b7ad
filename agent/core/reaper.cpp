// SPDX-License-Identifier: Apache-2.0
#include "agent/core/reaper.h"

#include <sys/wait.h>

#include <utility>

namespace kiln::agent {

void Reaper::reap() {
  // Several children may share one SIGCHLD.
  int status = 0;
  pid_t pid = 0;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    const auto found = expected_.find(pid);
    if (found == expected_.end()) continue;
    const Callback callback = std::move(found->second);
    expected_.erase(found);
    callback(WIFSIGNALED(status) ? ExitStatus{0, WTERMSIG(status)}
                                 : ExitStatus{WEXITSTATUS(status), 0});
  }
}

}  // namespace kiln::agent
