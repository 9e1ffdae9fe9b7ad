// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"

namespace kiln::vmm {

// Reads members of a JSON document by their pointers. An error says `boot document: POINTER: …`.
class DocumentReader {
 public:
  // `prefix`: put in front of every pointer in errors, for documents that are a part of another.
  explicit DocumentReader(const Json& document, std::string prefix = "")
      : document_(document), prefix_(std::move(prefix)) {}

  // Each wants the member to be there unless a default is given.
  Result<std::string> text(const std::string& pointer) const;
  Result<uint64_t> number(const std::string& pointer, uint64_t least, uint64_t most) const;
  Result<uint64_t> number_or(const std::string& pointer, uint64_t least, uint64_t most,
                             uint64_t otherwise) const;
  Result<bool> flag(const std::string& pointer) const;
  Result<bool> flag_or(const std::string& pointer, bool otherwise) const;
  bool has(const std::string& pointer) const;
  // The elements of a list with at most `most` of them; none where there is no such member.
  Result<std::vector<Json>> list(const std::string& pointer, size_t most, const char* of) const;

  tl::unexpected<Error> refuse(const std::string& pointer, const std::string& why) const;

 private:
  const Json* find(const std::string& pointer) const;

  const Json& document_;
  const std::string prefix_;
};

}  // namespace kiln::vmm
