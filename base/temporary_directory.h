// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>

#include "base/error.h"

namespace kiln {

// A directory that goes away with all that is in it.
class TemporaryDirectory {
 public:
  // `<parent>/<prefix>XXXXXX`
  static Result<TemporaryDirectory> create(const std::string& parent, const std::string& prefix);
  TemporaryDirectory(TemporaryDirectory&& other) noexcept;
  TemporaryDirectory& operator=(TemporaryDirectory&&) = delete;
  ~TemporaryDirectory();
  const std::string& path() const { return path_; }
  std::string release();  // it stays

 private:
  explicit TemporaryDirectory(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

}  // namespace kiln
