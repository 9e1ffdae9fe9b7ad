// SPDX-License-Identifier: Apache-2.0
// linux.resources as the cgroup v2 files to write. Pure: no file is touched here.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"

namespace kiln::oci {
struct Resources;
}  // namespace kiln::oci

namespace kiln::agent {

enum class WhenAbsent {
  kFail,  // a clear error
  kSkip,  // the kernel without that file behaves as the value asks for
};

// One write(2).
struct CgroupSetting {
  std::string controller;  // empty: a file of the cgroup core
  std::string file;
  std::string value;
  std::string origin;  // the config's member, for messages: `linux.resources.cpu.quota`
  WhenAbsent when_absent = WhenAbsent::kFail;
  // Tried instead of `file`, when that is absent; empty: none.
  std::string fallback_file;
  std::string fallback_value;
};

struct CgroupSettings {
  std::vector<CgroupSetting> settings;  // in the order in which they are to be written
  std::vector<std::string> warnings;
  std::optional<uint64_t> refuse_limit_below_usage;  // memory.checkBeforeUpdate: the limit
};

// Fails on what cgroup v2 has no counterpart for.
Result<CgroupSettings> cgroup_settings(const oci::Resources& resources);

// cgroup v1's cpu.shares (2 … 262144) → cpu.weight (1 … 10000), linearly, so that the proportions
// among containers stay.
uint64_t weight_of_shares(uint64_t shares);

// cgroup v1's blkio.weight (10 … 1000) → io.weight (1 … 10000).
uint64_t io_weight_of_block_weight(uint64_t weight);

// memory.swap.max of runtime-spec's limit and swap, where swap counts memory + swap; both -1 for
// unlimited. Empty: leave it alone.
Result<std::string> swap_max(std::optional<int64_t> limit, std::optional<int64_t> swap);

}  // namespace kiln::agent
