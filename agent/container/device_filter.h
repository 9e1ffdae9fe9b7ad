// SPDX-License-Identifier: Apache-2.0
// linux.resources.devices as a BPF program of a cgroup (BPF_PROG_TYPE_CGROUP_DEVICE).
#pragma once

#include <linux/bpf.h>

#include <vector>

#include "base/error.h"

namespace kiln::oci {
struct DeviceRule;
}  // namespace kiln::oci

namespace kiln::agent {

// For each of read, write and mknod the last rule that matches the device and names that access
// decides; without any, access is denied. The devices that every container has (null, zero, full,
// random, urandom, tty, ptmx, ptys) come after the rules, as does making nodes of any kind: a node
// without access to its device is harmless.
Result<std::vector<bpf_insn>> device_filter(const std::vector<oci::DeviceRule>& rules);

// In force for the cgroup and all below, beside programs that those attach themselves.
Result<void> attach_device_filter(int cgroup_fd, const std::vector<bpf_insn>& program);

}  // namespace kiln::agent
