// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "base/error.h"
#include "oci/spec.h"

namespace kiln::agent {

// runtime-spec config.md#startcontainer-hooks: in the container's namespaces, before its program.
// By the container's first process. The first one that fails ends it.
Result<void> run_start_hooks(const oci::Spec& spec, const std::string& container_id);

}  // namespace kiln::agent
