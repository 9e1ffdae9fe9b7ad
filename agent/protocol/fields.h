// SPDX-License-Identifier: Apache-2.0
// Reading a JSON object member by member, for the codec alone.
#pragma once

#include <set>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json.h"

namespace kiln::protocol {

// Each read checks type and range and names the JSON pointer in its error; finish() then refuses
// members that nobody read. Keeps a reference to the object.
class Fields {
 public:
  // `pointer`: where `object` lies in the message, "" for its top.
  static Result<Fields> of(const Json& object, std::string pointer);

  bool has(std::string_view key) const { return object_->contains(key); }

  // Without a fallback the member must be there.
  Result<int64_t> integer(std::string_view key, int64_t min, int64_t max);
  Result<int64_t> integer_or(std::string_view key, int64_t min, int64_t max, int64_t fallback);
  Result<uint64_t> any_unsigned(std::string_view key);
  Result<bool> boolean_or(std::string_view key, bool fallback);
  Result<std::string> text(std::string_view key, size_t max_bytes);
  Result<std::string> text_or_empty(std::string_view key, size_t max_bytes);
  // As kMaxIdBytes says. `..._or_empty`: may be absent or "".
  Result<std::string> id(std::string_view key);
  Result<std::string> id_or_empty(std::string_view key);
  // A name of one path component.
  Result<std::string> entry(std::string_view key);
  Result<const Json*> object(std::string_view key);
  Result<Fields> nested(std::string_view key);  // an object, to be read and finished by itself
  Result<const Json*> array(std::string_view key);

  Result<void> finish() const;

  std::string pointer_to(std::string_view key) const;

 private:
  Fields(const Json& object, std::string pointer)
      : object_(&object), pointer_(std::move(pointer)) {}
  Result<const Json*> member(std::string_view key);
  tl::unexpected<Error> wrong(std::string_view key, std::string_view rule) const;

  const Json* object_;
  std::string pointer_;
  std::set<std::string, std::less<>> known_;
};

bool is_id(std::string_view text);
// One component of a path: not empty, `.` or `..`, at most 255 bytes, no `/`, no control bytes.
bool is_entry_name(std::string_view text);
// Control characters become `?`: the text ends up in logs and on terminals.
std::string printable(std::string text);

}  // namespace kiln::protocol
