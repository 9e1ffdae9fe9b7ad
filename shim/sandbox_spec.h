// SPDX-License-Identifier: Apache-2.0
// The config of a sandbox that containerd does not write: with the sandbox API a shim gets what the
// kubelet said.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "cri.pb.h"
#include "sandbox.pb.h"

namespace kiln::shim {

// What the request says of the pod: a runtime.v1.PodSandboxConfig in its options, or nothing.
Result<api::PodSandboxConfig> pod_config(const api::CreateSandboxRequest& request);

// A config.json as containerd's CRI plugin would write it for a pause container. Host namespaces
// are left out of it, and refused by who reads it.
Result<Json> sandbox_spec(const api::CreateSandboxRequest& request);

}  // namespace kiln::shim
