// SPDX-License-Identifier: Apache-2.0
// Limits that change while the container runs.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "oci/spec.h"
#include "runtime/container_dir.h"

namespace kiln::runtime {

struct ResourceUpdate {
  oci::Resources merged;  // what holds afterwards
  oci::Resources guest;   // what the guest's cgroup is to be told
};
// `changes`: a linux.resources object; what is absent, null, zero or empty in it stays as it is, as
// Docker means it. `file` begins the messages.
Result<ResourceUpdate> plan_update(const oci::Resources& current, Json changes,
                                   const std::string& file, std::vector<std::string>* warnings);

// `kiln update`: the guest's cgroup, the host's, and the record. When a part fails, the others go
// back to what they were.
Result<void> update_container(const ContainerDir& dir, Json changes, const std::string& file);

}  // namespace kiln::runtime
