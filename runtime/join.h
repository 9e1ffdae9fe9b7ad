// SPDX-License-Identifier: Apache-2.0
// Which running sandbox a new container belongs to.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "base/error.h"
#include "oci/spec.h"

namespace kiln::runtime {

struct JoinPlan {
  std::string owner;                          // id of the container whose monitor has the machine
  std::map<std::string, std::string> shared;  // "ipc", "uts", "pid" → id of the container
};

// A container whose network namespace is a sandbox's goes into the sandbox's machine: pods do that,
// and `--network container:NAME`. Namespaces of other types can then be those of containers that
// are there (/proc/<monitor's pid>/ns/…). nullopt: it gets a machine of its own. Errors: a
// namespace of a container that is in another machine.
Result<std::optional<JoinPlan>> find_sandbox(const std::string& root, const oci::Spec& spec);

}  // namespace kiln::runtime
