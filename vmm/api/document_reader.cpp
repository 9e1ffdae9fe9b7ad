// SPDX-License-Identifier: Apache-2.0
#include "vmm/api/document_reader.h"

#include <nlohmann/json.hpp>

#include "base/format.h"

namespace kiln::vmm {

const Json* DocumentReader::find(const std::string& pointer) const {
  const Json::json_pointer place(pointer);
  return document_.contains(place) ? &document_[place] : nullptr;
}

tl::unexpected<Error> DocumentReader::refuse(const std::string& pointer,
                                             const std::string& why) const {
  return invalid_argument(fmt::format("boot document: {}{}: {}", prefix_, pointer, why));
}

bool DocumentReader::has(const std::string& pointer) const { return find(pointer) != nullptr; }

Result<std::string> DocumentReader::text(const std::string& pointer) const {
  const Json* value = find(pointer);
  if (value == nullptr || !value->is_string()) return refuse(pointer, "must be a string");
  return value->get<std::string>();
}

Result<uint64_t> DocumentReader::number(const std::string& pointer, uint64_t least,
                                        uint64_t most) const {
  const Json* value = find(pointer);
  if (value == nullptr || !value->is_number_unsigned()) return refuse(pointer, "must be a number");
  const auto number = value->get<uint64_t>();
  if (number < least || number > most)
    return refuse(pointer, fmt::format("must be between {} and {}, is {}", least, most, number));
  return number;
}

Result<uint64_t> DocumentReader::number_or(const std::string& pointer, uint64_t least,
                                           uint64_t most, uint64_t otherwise) const {
  return has(pointer) ? number(pointer, least, most) : Result<uint64_t>(otherwise);
}

Result<bool> DocumentReader::flag(const std::string& pointer) const {
  const Json* value = find(pointer);
  if (value == nullptr || !value->is_boolean()) return refuse(pointer, "must be true or false");
  return value->get<bool>();
}

Result<bool> DocumentReader::flag_or(const std::string& pointer, bool otherwise) const {
  return has(pointer) ? flag(pointer) : Result<bool>(otherwise);
}

Result<std::vector<Json>> DocumentReader::list(const std::string& pointer, size_t most,
                                               const char* of) const {
  const Json* value = find(pointer);
  if (value == nullptr) return std::vector<Json>();
  if (!value->is_array() || value->size() > most)
    return refuse(pointer, fmt::format("must be a list of at most {} {}", most, of));
  return std::vector<Json>(value->begin(), value->end());
}

}  // namespace kiln::vmm
