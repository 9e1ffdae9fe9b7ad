// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::agent {

// Loads the kernel modules that the lines of `list_path` name (absolute, or relative to the list's
// directory), in that order. No such file: a kernel that needs none. A module that is built in or
// loaded already is no error. Goes on after a failure and returns the first.
Result<void> load_modules(const std::string& list_path);

// Modules for when they are needed: their files stay open, and so in memory, when the initramfs
// they came in is emptied (0.4 MiB with Debian's cloud kernel).
class OptionalModules {
 public:
  // `list_path`: a line for each module, `name: file…`, the files in load order. No such file:
  // none.
  static Result<OptionalModules> open(const std::string& list_path);

  // Loads what the list has for `name`, once. A name that is not there is a success: the driver
  // may be built in, and if not, whoever looks for it will not find it.
  Result<void> load(const std::string& name);

 private:
  struct File {
    std::string path;  // for messages
    UniqueFd fd;       // invalid once it is loaded
  };
  std::vector<File> files_;
  std::map<std::string, std::vector<size_t>> modules_;  // → indices in files_
};

}  // namespace kiln::agent
