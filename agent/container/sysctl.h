// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"

namespace kiln::oci {
struct Spec;
}  // namespace kiln::oci

namespace kiln::agent {

// Writes linux.sysctl through /proc/sys. By a process in the container's namespaces, before /proc
// becomes read-only; the procfs may be the guest's or the container's own.
Result<void> apply_sysctls(const oci::Spec& spec);

// The path below /proc/sys of `net.ipv4.ip_forward` or `net/ipv4/ip_forward`; sysctl.d(5): the
// first separator says which of the two is meant, and the other one then stands for the dot in a
// name (`net.ipv4.conf.eth0/100.forwarding`). Refuses empty components and `..`.
Result<std::string> sysctl_path(std::string_view key);

}  // namespace kiln::agent
