// SPDX-License-Identifier: Apache-2.0
// From the kernel's first user-space instruction to a guest in which containers can be made.
#pragma once

#include "base/error.h"
#include "base/log.h"

namespace kiln::agent {

// A root that pivot_root(2) accepts, and everything of the initramfs freed but this program and
// kOptionalModuleDirectory (modules.h), which keeps its place. The other kernel modules must have
// been loaded.
Result<void> leave_initramfs();

// /proc, /sys, /dev and what belongs into them, /run, /tmp, and cgroup v2 with every controller
// that the kernel has passed on to its children.
Result<void> mount_system();

// Loopback interface, limits of this process, sysctls.
Result<void> configure_kernel();

// How to log on standard error until open_console(): where the kernel has no console, its own log
// takes the place of one.
LogFormat open_early_log();

// The console, as the first three descriptors; the log goes there too, in the format that is
// returned. After mount_system().
Result<LogFormat> open_console();

}  // namespace kiln::agent
