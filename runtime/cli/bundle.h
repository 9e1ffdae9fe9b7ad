// SPDX-License-Identifier: Apache-2.0
// From a bundle, the flags and the configuration file to what create_container takes.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "oci/spec.h"
#include "runtime/cli/command.h"
#include "runtime/container_create.h"

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

// What a command asks for beyond the configuration file.
struct MachineWishes {
  std::optional<unsigned> vcpus;
  std::optional<uint64_t> memory_mib;
  std::optional<std::string> backend;  // kvm, qemu, auto
  bool nested = false;
  std::optional<NetworkMode> network;
};

// Reads and checks <bundle>/config.json. Warnings are logged.
Result<oci::Spec> load_spec(const std::string& bundle);
// The flags' own rules, then everything but the console.
Result<NewContainer> prepare_container(const Globals& globals, const CreateFlags& flags);
// The same for a spec that a command made.
Result<NewContainer> prepare_from_spec(const Globals& globals, const std::string& id,
                                       const std::string& bundle, oci::Spec spec,
                                       const MachineWishes& wishes);
// The files and sockets that are to know of the new container: --pidfd-socket, connected before
// there is anything to undo, and --pid-file. On failure the container is deleted.
Result<UniqueFd> connect_pidfd_socket(const CreateFlags& flags);
Result<void> announce_container(const Globals& globals, const CreateFlags& flags,
                                const UniqueFd& pidfd_socket, const CreatedContainer& created);
void remove_quietly(const Globals& globals, const std::string& id);

// machine.cpp: fills in plan.vm and the rest that comes from the configuration file.
Result<void> plan_machine(const Globals& globals, const MachineWishes& wishes, MonitorPlan& plan);

}  // namespace kiln::runtime
