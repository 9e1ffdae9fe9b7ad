// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "oci/spec.h"

namespace kiln::runtime {

// What of linux.resources the guest's cgroup is to enforce. CPUs, memory nodes and devices are the
// host's, and so is their limit (runtime/cgroup/host_limits.h); networks and RDMA have none
// (docs/limitations.md).
oci::Resources guest_resources(oci::Resources resources);

}  // namespace kiln::runtime
