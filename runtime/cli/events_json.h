// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "agent/protocol/messages.h"
#include "base/json.h"

namespace kiln::runtime {

// `data` of runc's stats event, as runc fills it in from cgroup v2. Times in nanoseconds.
Json stats_event_data(const protocol::StatsReply& stats);

}  // namespace kiln::runtime
