// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "agent/core/guest_container.h"

namespace kiln::agent {

// agent/container's, for the core.
ContainerFactory real_containers();

}  // namespace kiln::agent
