// SPDX-License-Identifier: Apache-2.0
// Taking a container away, in whatever state it was left.
#pragma once

#include <string>

#include "base/error.h"
#include "runtime/container_dir.h"

namespace kiln::runtime {

// Of a container whose processes are gone; the caller holds the lock. Runs the poststop hooks,
// whose failures are only logged, and removes the directory.
Result<void> remove_container(ContainerDir& dir, const ContainerRecord& record);

// `kiln delete`. Without `force` only what is created (which is killed) or stopped; with it
// anything, and what does not exist counts as deleted.
Result<void> delete_container(const std::string& root, const std::string& id, bool force);

}  // namespace kiln::runtime
