// SPDX-License-Identifier: Apache-2.0
// The actions of a shim that end at once: start, delete, -info.
#pragma once

#include <string>

#include "base/error.h"
#include "shim/arguments.h"

namespace kiln::shim {

// `input`: standard input. In the bundle's directory. Returns what goes to standard output: the
// address of a shim that serves, in the form that this containerd understands.
Result<std::string> start(const Arguments& arguments, const std::string& input);

// Of a shim that has died: removes what its container has left. Returns a DeleteResponse.
Result<std::string> clean_up(const Arguments& arguments);

// `input`: the runtime's options. Returns a RuntimeInfo.
Result<std::string> info(const std::string& input);

// The containers that a bundle's goes with: its pod, or itself alone.
std::string group_of(const std::string& config, const std::string& id);

}  // namespace kiln::shim
