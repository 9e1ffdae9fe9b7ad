// SPDX-License-Identifier: Apache-2.0
// The shim itself: one process for a pod, or for a container that is in none.
#pragma once

#include "shim/arguments.h"

namespace kiln::shim {

// Serves on the listening socket kListenerFd until containerd shuts it down; the exit code.
int serve(const Arguments& arguments);

constexpr int kListenerFd = 3;

}  // namespace kiln::shim
