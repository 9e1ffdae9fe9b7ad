// SPDX-License-Identifier: Apache-2.0
// config.json ↔ oci::Spec. Input is untrusted: whoever made the bundle made it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "oci/spec.h"

namespace kiln::oci {

// Types, ranges, enumerations and the spec's rules are checked; the error names the JSON pointer
// and the rule: config.json: /process/cwd: must be an absolute path, is `tmp`. `warnings` (may be
// null) gets a line for each member that we do not know (runtime-spec 1.2 config.md#extensibility:
// they are ignored) and each value that we take differently. Nothing is resolved on this host.
Result<Spec> parse_spec(const Json& json, std::vector<std::string>* warnings = nullptr);
// The same from the file's text.
Result<Spec> parse_spec_text(std::string_view text, std::vector<std::string>* warnings = nullptr);

// A process object alone, as `exec --process FILE` has it. `file` begins the messages.
Result<Process> parse_process(const Json& json, const std::string& file = "process.json",
                              std::vector<std::string>* warnings = nullptr);

// A resources object alone, as `update --resources FILE` has it.
Result<Resources> parse_resources(const Json& json, const std::string& file,
                                  std::vector<std::string>* warnings = nullptr);

// Members that are at their default are left out. parse_spec(to_json(s)) is s again.
Json to_json(const Spec& spec);
Json to_json(const Process& process);
Json to_json(const Resources& resources);

// What `kiln spec` writes: the same as `runc spec` on a host with cgroup v2, as the guest has it.
Spec default_spec(bool rootless);

}  // namespace kiln::oci
