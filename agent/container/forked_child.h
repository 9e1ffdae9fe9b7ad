// SPDX-License-Identifier: Apache-2.0
// For tests: what changes the process for good runs in a child.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <functional>

namespace kiln::agent {

// wait(2)'s status of a child that ends with what `body` returns.
inline int status_of_child(const std::function<int()>& body) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = -1;
  ::waitpid(child, &status, 0);
  return status;
}

// The child's exit code; -1 if a signal ended it.
inline int exit_code_of_child(const std::function<int()>& body) {
  const int status = status_of_child(body);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace kiln::agent
