// SPDX-License-Identifier: Apache-2.0
// `kiln monitor`: one container's process on the host. Its pid is the container's pid, and it ends
// with the container's exit code.
#pragma once

namespace kiln::runtime {

// Internal: what create starts. It goes around the command line's parser, because it stays in
// memory for as long as the container runs.
bool is_monitor(int argc, char** argv);

// With the descriptors of plan.h. Returns the exit status.
int run_monitor();

}  // namespace kiln::runtime
