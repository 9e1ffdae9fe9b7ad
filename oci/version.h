// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace kiln::oci {

// The runtime-spec that this runtime implements, and the oldest that it takes.
constexpr const char* kSpecVersion = "1.2.1";
constexpr const char* kOldestSpecVersion = "1.0.0";

}  // namespace kiln::oci
