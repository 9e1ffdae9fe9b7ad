// SPDX-License-Identifier: Apache-2.0
// Paths as the container means them: `/` is its root file system, and no symbolic link or `..`
// leads out of it, whoever changes it meanwhile.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::agent {

// Opens what exists. `flags` of open(2). Symbolic links are followed inside the root; magic links
// of procfs are not.
Result<UniqueFd> open_in_root(int root_fd, const std::string& path, int flags);

// The same, but no symbolic link may be on the way (ELOOP).
Result<UniqueFd> open_without_links(int root_fd, const std::string& path, int flags);

// O_PATH descriptors of a directory or of a file; what is missing of it is made, also behind
// dangling symbolic links. Directories get mode 0755. An existing other kind of file is no error:
// it is returned as it is.
Result<UniqueFd> make_directory_in_root(int root_fd, const std::string& path);
Result<UniqueFd> make_file_in_root(int root_fd, const std::string& path);

// Lexically: absolute, without `.`, `..`, and repeated slashes.
std::string clean_path(std::string_view path);

// Names between slashes, without empty ones and `.`.
std::vector<std::string> path_components(std::string_view path);

}  // namespace kiln::agent
