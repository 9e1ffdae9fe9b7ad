// SPDX-License-Identifier: Apache-2.0
// What a cgroup (v2) says of its own use.
#pragma once

#include "base/error.h"

namespace kiln::protocol {
struct StatsReply;
}  // namespace kiln::protocol

namespace kiln::agent {

// Of the cgroup that `directory` is open on. What its kernel does not count stays at its default.
Result<protocol::StatsReply> read_cgroup_stats(int directory);

}  // namespace kiln::agent
