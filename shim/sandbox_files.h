// SPDX-License-Identifier: Apache-2.0
// Files that all containers of a pod see: names, and shared memory. With the sandbox API they are
// the shim's to make; with a pause container containerd has made them.
#pragma once

#include <string>

#include "base/error.h"
#include "oci/spec.h"
#include "sandbox.pb.h"

namespace kiln::shim {

// resolv.conf, hosts and hostname in the sandbox's bundle, as containerd's CRI plugin would write
// them, and the pod's /dev/shm, a tmpfs of 64 MiB.
Result<void> make_sandbox_files(const api::CreateSandboxRequest& request);

// Binds those that are there into a container of the pod, unless its config has something there;
// its own /dev/shm becomes the pod's.
void add_sandbox_files(const std::string& bundle, oci::Spec& spec);

// Twice is no error.
Result<void> remove_sandbox_files(const std::string& bundle);

}  // namespace kiln::shim
