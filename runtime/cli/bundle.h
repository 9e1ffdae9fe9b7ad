// SPDX-License-Identifier: Apache-2.0
// The flags of create and run, and what they make of them.
#pragma once

#include <string>

#include "base/error.h"
#include "runtime/cli/command.h"
#include "runtime/container_create.h"
#include "runtime/container_plan.h"

namespace kiln::runtime {

// Flags that create and run have in common.
struct CreateFlags {
  std::string id;
  std::string bundle;
  std::string pid_file;
  std::string console_socket;
  std::string pidfd_socket;
  bool no_pivot = false;
  bool no_new_keyring = false;
  int preserve_fds = 0;
};
void add_create_flags(const Command& command, CreateFlags& flags);

// The flags' own rules, then everything but the console.
Result<NewContainer> prepare_container(const Globals& globals, const CreateFlags& flags);
// The files and sockets that are to know of the new container: --pidfd-socket, connected before
// there is anything to undo, and --pid-file. On failure the container is deleted.
Result<UniqueFd> connect_pidfd_socket(const CreateFlags& flags);
Result<void> announce_container(const Globals& globals, const CreateFlags& flags,
                                const UniqueFd& pidfd_socket, const CreatedContainer& created);
void remove_quietly(const Globals& globals, const std::string& id);

}  // namespace kiln::runtime
