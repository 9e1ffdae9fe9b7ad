// SPDX-License-Identifier: Apache-2.0
// What containerd's configuration says about the runtime, as it reaches each task.
#pragma once

#include <string>

#include "base/error.h"
#include "runtime/container_plan.h"
#include "ttrpc.pb.h"

namespace kiln::shim {

// containerd.runc.v1.Options, whose Root and SystemdCgroup count, or runtimeoptions.v1.Options,
// whose ConfigPath is the configuration file; anything else is an error. `cgroups_path`: of the
// config; a systemd one (slice:prefix:name) is known by its look.
Result<runtime::PlanOptions> plan_options(const api::Any& options,
                                          const std::string& namespace_name,
                                          const std::string& cgroups_path);

// The state directory of the namespace's containers, unless an option says otherwise.
std::string default_root(const std::string& namespace_name);

// The file of the shim's first bundle that says what the runtime's options are: with the sandbox
// API they come at `start` alone.
Result<void> write_options(const std::string& bundle, const api::Any& options);
// Nothing where there is none.
api::Any read_options(const std::string& bundle);

// The file of a bundle that says where its container's state is, for who cleans up after us.
Result<void> write_root(const std::string& bundle, const std::string& root);
// The default where there is none.
std::string read_root(const std::string& bundle, const std::string& namespace_name);

}  // namespace kiln::shim
