// SPDX-License-Identifier: Apache-2.0
// Network namespaces of the host.
#pragma once

#include <string>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::runtime {

// That of the calling thread.
Result<UniqueFd> current_network_namespace();
// As a config.json names it. Refuses what is no network namespace.
Result<UniqueFd> open_network_namespace(const std::string& path);
Result<bool> is_same_namespace(int one, int other);
// setns(2), for the calling thread.
Result<void> enter_network_namespace(int fd);
// The same for one that nobody has used yet: `lo` is brought up.
Result<void> enter_new_network_namespace(int fd);
// The calling thread is alone in a new one, whose `lo` is up.
Result<void> make_network_namespace();

}  // namespace kiln::runtime
