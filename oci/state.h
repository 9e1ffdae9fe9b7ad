// SPDX-License-Identifier: Apache-2.0
// A container's state as runtime-spec 1.2 runtime.md#state has it: hooks get it on standard input,
// `kiln state` prints it with runc's additions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "oci/spec.h"

namespace kiln::oci {

struct State {
  std::string oci_version;
  std::string id;
  std::string status;  // creating, created, running, stopped; runc's paused
  int32_t pid = 0;     // as the host sees it; 0: there is no process
  std::string bundle;  // absolute
  StringMap annotations;

  // runc's; an empty one is not written.
  std::string rootfs;   // absolute
  std::string created;  // RFC 3339
  std::string owner;
};

Json to_json(const State& state);
Result<State> parse_state(const Json& json, const std::string& file = "state.json");

}  // namespace kiln::oci
