// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/filter.h>

#include <vector>

#include "base/error.h"

namespace kiln::oci {
struct Seccomp;
}  // namespace kiln::oci

namespace kiln::agent {

struct SeccompProgram {
  std::vector<sock_filter> filter;
  unsigned flags = 0;  // SECCOMP_FILTER_FLAG_*
};

// By the agent, before it makes the process. Names of system calls that libseccomp does not know
// are left out, as runc does: profiles name calls of newer kernels and other architectures.
Result<SeccompProgram> compile_seccomp(const oci::Seccomp& config);

// By the process itself: no allocation unless it fails. Leaves no_new_privs alone, hence needs
// either that or CAP_SYS_ADMIN; see apply_identity for the order.
Result<void> load_seccomp(const SeccompProgram& program);

}  // namespace kiln::agent
