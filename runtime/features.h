// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/json.h"

namespace kiln::runtime {

// What `kiln features` prints, and containerd asks its shim for.
Json runtime_features();

}  // namespace kiln::runtime
