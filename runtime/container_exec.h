// SPDX-License-Identifier: Apache-2.0
// `kiln exec`: another process in a running container. The command itself relays its streams.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "agent/protocol/messages.h"
#include "base/unique_fd.h"
#include "oci/spec.h"
#include "runtime/container_dir.h"

namespace kiln::runtime {

// What the flags of exec change in the container's own process.
struct ExecChanges {
  std::vector<std::string> args;
  std::optional<std::string> cwd;
  std::vector<std::string> env;     // added
  std::optional<std::string> user;  // uid[:gid]
  std::vector<uint32_t> additional_gids;
  std::vector<std::string> capabilities;  // added to every set
  bool no_new_privileges = false;
  bool terminal = false;
};
Result<oci::Process> exec_process(oci::Process base, const ExecChanges& changes);

constexpr const char* kExecInPausedContainer =
    "cannot exec in a paused container (use --ignore-paused to override)";

struct ExecOptions {
  oci::Process process;
  bool detach = false;
  std::string pid_file;
  std::string console_socket;
  std::string pidfd_socket;
  bool ignore_paused = false;
  std::string vsock_path;                // of the machine; exec_in_container() fills it in
  std::vector<protocol::Passed> passed;  // our descriptors from kFirstPassedFd on
};
// The process's exit code; with `detach` 0 once it runs, and a proxy stays behind that ends with
// its code.
Result<int> exec_in_container(const ContainerDir& dir, ExecOptions options);

}  // namespace kiln::runtime
