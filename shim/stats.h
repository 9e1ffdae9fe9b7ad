// SPDX-License-Identifier: Apache-2.0
// A guest's statistics in containerd's words.
#pragma once

#include "agent/protocol/messages.h"
#include "ttrpc.pb.h"

namespace kiln::shim {

// io.containerd.cgroups.v2.Metrics where the host has cgroup v2 alone, v1's otherwise: clients go
// by the host, whatever the guest has. `oom_kills`: of the container, so far.
api::Any encode_stats(const protocol::StatsReply& stats, bool unified, uint64_t oom_kills = 0);

}  // namespace kiln::shim
