// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"

namespace kiln::agent {

constexpr const char* kOptionalModuleDirectory = "/lib/modules/on-demand";

// Loads the kernel modules that the lines of `list_path` name (absolute, or relative to the list's
// directory), in that order. No such file: a kernel that needs none. A module that is built in or
// loaded already is no error. Goes on after a failure and returns the first.
Result<void> load_modules(const std::string& list_path);

// Modules for when they are needed. Used by PID 1 and, at the same time, by the processes that the
// kernel starts when it needs one (module_request.h): what is known about them is in the directory
// alone.
class OptionalModules {
 public:
  // `directory`: the files, gzip files where the name says so, and `table`, which has a line for
  // each module: `name alias…: file…`, the files in load order.
  explicit OptionalModules(std::string directory = kOptionalModuleDirectory)
      : directory_(std::move(directory)) {}

  // Loads what the table has for `name`, a module's name or an alias of it, where `-` is as good as
  // `_`; once: what has been loaded is removed from the directory, and so from memory. A name that
  // is not there is a success: the driver may be built in, and if not, whoever looks for it will
  // not find it.
  Result<void> load(std::string_view name) const;

 private:
  Result<void> load_file(std::string_view name) const;

  std::string directory_;
};

}  // namespace kiln::agent
