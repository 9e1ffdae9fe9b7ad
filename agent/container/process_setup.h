// SPDX-License-Identifier: Apache-2.0
// Steps that init and a process that enters a container have in common. All act on the caller.
#pragma once

#include <optional>
#include <string>

#include "agent/container/container.h"
#include "agent/container/seccomp_filter.h"
#include "base/error.h"
#include "oci/spec.h"

namespace kiln::agent {

// Root of a new user namespace, or of one just entered.
Result<void> become_namespace_root();

// config.json's host and domain name, where there are any.
Result<void> set_names(const oci::Spec& spec);

// A session keyring of the container's, so that it does not get at the guest's.
Result<void> join_keyring(const std::string& container_id);

Result<void> set_personality(const std::optional<oci::Personality>& personality);

// Descriptors 0, 1, 2. `terminal_fd` -1: none. A stream that is not given is the null device of the
// container, so that its name means something there; of the guest if it has none. The caller's
// /proc and /dev are the guest's.
Result<void> place_stdio(const ProcessFds& stdio, int terminal_fd, int root_fd);

// Descriptors from 3 on, close-on-exec until run_program. Nothing else may be there; `moved`, the
// one that may, goes out of their way.
Result<void> place_passed(const std::vector<UniqueFd>& passed, UniqueFd& moved);

// Before the process's credentials are set, and again after it for what only they may enter.
// Verifies that the directory is in the root (CVE-2024-21626).
Result<void> enter_directory(const std::string& path);

// Credentials and system call filter in the order that noNewPrivileges asks for, working directory,
// environment, and where the program is. After pivot_root.
struct Program {
  std::string path;
  std::vector<std::string> environment;
};
Result<Program> prepare_program(const oci::Process& process,
                                const std::optional<SeccompProgram>& seccomp);

// The filter with noNewPrivileges, as late as can be; then execve(2). The process keeps `passed`
// descriptors beside the standard streams.
Error run_program(const Program& program, const oci::Process& process,
                  const std::optional<SeccompProgram>& seccomp, size_t passed);

}  // namespace kiln::agent
