// SPDX-License-Identifier: Apache-2.0
#include "base/temporary_directory.h"

#include <cstdlib>
#include <filesystem>
#include <utility>

#include "base/format.h"

namespace kiln {

Result<TemporaryDirectory> TemporaryDirectory::create(const std::string& parent,
                                                      const std::string& prefix) {
  std::string path = fmt::format("{}/{}XXXXXX", parent, prefix);
  if (mkdtemp(path.data()) == nullptr) return sys_error(fmt::format("create directory `{}`", path));
  return TemporaryDirectory(std::move(path));
}

TemporaryDirectory::TemporaryDirectory(TemporaryDirectory&& other) noexcept
    : path_(other.release()) {}

TemporaryDirectory::~TemporaryDirectory() {
  if (path_.empty()) return;
  std::error_code failed;
  std::filesystem::remove_all(path_, failed);
}

std::string TemporaryDirectory::release() { return std::exchange(path_, {}); }

}  // namespace kiln
