// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "agent/core/guest_container.h"

namespace kiln::agent {

// agent/container's, for the core.
ContainerFactory real_containers();
PodFactory real_pods();

}  // namespace kiln::agent
