// SPDX-License-Identifier: Apache-2.0
// Making and removing a task's container: what blocks, on a worker's thread.
#pragma once

#include <string>

#include "base/error.h"
#include "runtime/container_create.h"
#include "shim/rootfs.h"
#include "shim/stdio.h"
#include "ttrpc.pb.h"

namespace kiln::shim {

struct NewTask {
  std::string id;
  std::string namespace_name;
  std::string bundle;
  Mounts rootfs;
  StdioPaths stdio;
  api::Any options;
  std::string sandbox_bundle;  // that has files for it (sandbox_files.h); empty: none
  bool silent = false;         // containerd hears of it by other means than events
};

struct MadeTask {
  std::string root;  // the state directory that it is in
  runtime::CreatedContainer container;
  UniqueFd stdin_keeper;
  ChildProcess logger;
};

// On failure nothing is left.
Result<MadeTask> make_container(const NewTask& task);

// Kills what runs, and removes the container and what is mounted for it; twice is no error.
Result<void> remove_container(const std::string& root, const std::string& id,
                              const std::string& bundle);

}  // namespace kiln::shim
