// SPDX-License-Identifier: Apache-2.0
#include "agent/protocol/fields.h"

#include <algorithm>

#include "agent/protocol/messages.h"
#include "base/format.h"

namespace kiln::protocol {
namespace {

bool is_control(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

bool is_id_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '+' || c == '.' || c == '-';
}

}  // namespace

bool is_id(std::string_view text) {
  return !text.empty() && text.size() <= kMaxIdBytes && text != "." && text != ".." &&
         std::all_of(text.begin(), text.end(), is_id_char);
}

bool is_entry_name(std::string_view text) {
  return !text.empty() && text.size() <= 255 && text != "." && text != ".." &&
         std::none_of(text.begin(), text.end(), [](char c) { return c == '/' || is_control(c); });
}

std::string printable(std::string text) {
  for (size_t i = 0; i < text.size(); ++i) {
    // U+0080 to U+009F, terminal controls too, are 0xc2 0x80 to 0xc2 0x9f.
    const bool c1 = static_cast<unsigned char>(text[i]) == 0xc2 && i + 1 < text.size() &&
                    static_cast<unsigned char>(text[i + 1]) < 0xa0;
    if (c1) text[i] = text[i + 1] = '?';
    if (is_control(text[i])) text[i] = '?';
  }
  return text;
}

Result<Fields> Fields::of(const Json& object, std::string pointer) {
  if (!object.is_object())
    return invalid_argument(
        fmt::format("{}: must be an object", pointer.empty() ? "/" : pointer.c_str()));
  return Fields(object, std::move(pointer));
}

std::string Fields::pointer_to(std::string_view key) const {
  return fmt::format("{}/{}", pointer_, printable(std::string(key.substr(0, 64))));
}

tl::unexpected<Error> Fields::wrong(std::string_view key, std::string_view rule) const {
  return invalid_argument(fmt::format("{}: {}", pointer_to(key), rule));
}

Result<const Json*> Fields::member(std::string_view key) {
  known_.emplace(key);
  const auto found = object_->find(key);
  if (found == object_->end()) return wrong(key, "is missing");
  return &*found;
}

Result<int64_t> Fields::integer(std::string_view key, int64_t min, int64_t max) {
  const Json* value = TRY(member(key));
  const bool too_big = value->is_number_unsigned() &&
                       value->get<uint64_t>() > static_cast<uint64_t>(std::max<int64_t>(max, 0));
  if (!value->is_number_integer() || too_big || value->get<int64_t>() < min ||
      value->get<int64_t>() > max) {
    return wrong(key, fmt::format("must be an integer from {} to {}", min, max));
  }
  return value->get<int64_t>();
}

Result<int64_t> Fields::integer_or(std::string_view key, int64_t min, int64_t max,
                                   int64_t fallback) {
  known_.emplace(key);
  if (!has(key)) return fallback;
  return integer(key, min, max);
}

Result<uint64_t> Fields::any_unsigned(std::string_view key) {
  const Json* value = TRY(member(key));
  // A Json that was built and not parsed may hold a small number as signed.
  if (!value->is_number_integer() || (!value->is_number_unsigned() && value->get<int64_t>() < 0)) {
    return wrong(key, "must be an integer, not negative");
  }
  return value->get<uint64_t>();
}

Result<bool> Fields::boolean_or(std::string_view key, bool fallback) {
  known_.emplace(key);
  if (!has(key)) return fallback;
  const Json* value = TRY(member(key));
  if (!value->is_boolean()) return wrong(key, "must be true or false");
  return value->get<bool>();
}

Result<std::string> Fields::text(std::string_view key, size_t max_bytes) {
  const Json* value = TRY(member(key));
  if (!value->is_string()) return wrong(key, "must be a string");
  const auto& text = value->get_ref<const std::string&>();
  if (text.size() > max_bytes) return wrong(key, fmt::format("is longer than {} bytes", max_bytes));
  return printable(text);
}

Result<std::string> Fields::text_or_empty(std::string_view key, size_t max_bytes) {
  known_.emplace(key);
  if (!has(key)) return std::string();
  return text(key, max_bytes);
}

Result<std::string> Fields::id(std::string_view key) {
  std::string text = TRY(this->text(key, kMaxIdBytes));
  if (!is_id(text)) return wrong(key, "must be an id of [A-Za-z0-9_+.-]");
  return text;
}

Result<std::string> Fields::id_or_empty(std::string_view key) {
  std::string text = TRY(text_or_empty(key, kMaxIdBytes));
  if (!text.empty() && !is_id(text)) return wrong(key, "must be empty or an id of [A-Za-z0-9_+.-]");
  return text;
}

Result<std::string> Fields::entry(std::string_view key) {
  const Json* value = TRY(member(key));
  if (!value->is_string() || !is_entry_name(value->get_ref<const std::string&>()))
    return wrong(key, "must be the name of one share entry");
  return value->get<std::string>();
}

Result<const Json*> Fields::object(std::string_view key) {
  const Json* value = TRY(member(key));
  if (!value->is_object()) return wrong(key, "must be an object");
  return value;
}

Result<Fields> Fields::nested(std::string_view key) {
  return Fields(*TRY(object(key)), pointer_to(key));
}

Result<const Json*> Fields::array(std::string_view key) {
  const Json* value = TRY(member(key));
  if (!value->is_array()) return wrong(key, "must be an array");
  return value;
}

Result<void> Fields::finish() const {
  for (const auto& [key, value] : object_->items()) {
    if (!known_.contains(key)) return wrong(key, "is not a member that is known here");
  }
  return {};
}

}  // namespace kiln::protocol
