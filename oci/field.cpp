// SPDX-License-Identifier: Apache-2.0
#include "oci/field.h"

#include <cstring>

#include <nlohmann/json.hpp>

#include "base/format.h"

namespace kiln::oci {
namespace {

constexpr size_t kLongestShownValue = 100;

// For a message: cut, and in JSON's notation if it would otherwise break the line.
std::string shown(std::string_view value) {
  bool plain = true;
  for (const char c : value) plain = plain && static_cast<unsigned char>(c) >= 0x20 && c != 0x7f;
  std::string text = plain ? std::string(value) : dump_json(Json(std::string(value)));
  if (text.size() > kLongestShownValue) {
    size_t cut = kLongestShownValue;
    while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xc0) == 0x80) --cut;  // UTF-8 tail
    text.resize(cut);
    text += "…";
  }
  return text;
}

// Not the whole dump: a value of megabytes would be written out to show a hundred bytes of it.
std::string shown_json(const Json& json) {
  if (json.is_object()) return "{…}";
  if (json.is_array()) return "[…]";
  return shown(dump_json(json));
}

bool wrong_type(Reader& reader, const Json& json, const char* wanted) {
  return reader.fail_value("", wanted, shown_json(json));
}

std::string list_of(const char* const* values) {
  std::string text = "must be one of ";
  for (size_t i = 0; values[i] != nullptr; ++i) {
    if (i > 0) text += ", ";
    text += values[i];
  }
  return text;
}

bool is_one_of(const char* const* values, std::string_view value) {
  for (; *values != nullptr; ++values)
    if (value == *values) return true;
  return false;
}

// `subject` comes before the rule: "" or "has a key that ".
bool check_string(Reader& reader, const Rule* rule, const std::string& value,
                  const std::string& subject = "") {
  // Every string ends up as a C string of some system call; a NUL would silently end it early.
  if (value.find('\0') != std::string::npos)
    return reader.fail_value("", subject + "must not contain a NUL character", value);
  if (rule == nullptr) return true;
  if (rule->accepts != nullptr && !rule->accepts(value))
    return reader.fail_value("", subject + rule->text, value);
  if (rule->values != nullptr && !is_one_of(rule->values, value))
    return reader.fail_value(
        "", subject + (rule->text != nullptr ? rule->text : list_of(rule->values)), value);
  return true;
}

bool range_error(Reader& reader, const Json& json, int64_t min, uint64_t max) {
  const bool open = max >= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  return reader.fail_value("",
                           open ? fmt::format("must be at least {}", min)
                                : fmt::format("must be between {} and {}", min, max),
                           shown_json(json));
}

bool read_integer(Reader& reader, const Json& json, Kind kind, const Rule* rule, void* out) {
  if (!json.is_number_integer()) return wrong_type(reader, json, "must be an integer");
  int64_t min = 0;
  uint64_t max = std::numeric_limits<uint64_t>::max();
  if (kind == Kind::kInt32) min = std::numeric_limits<int32_t>::min();
  if (kind == Kind::kInt64) min = std::numeric_limits<int64_t>::min();
  if (kind == Kind::kInt32) max = std::numeric_limits<int32_t>::max();
  if (kind == Kind::kUint32) max = std::numeric_limits<uint32_t>::max();
  if (kind == Kind::kInt64) max = std::numeric_limits<int64_t>::max();
  if (rule != nullptr) {
    min = std::max(min, rule->min);
    if (rule->max != std::numeric_limits<int64_t>::max())
      max = std::min(max, static_cast<uint64_t>(rule->max));
  }
  // nlohmann keeps what has no minus sign as unsigned.
  const bool negative = !json.is_number_unsigned() && json.get<int64_t>() < 0;
  const bool in_range = negative
                            ? json.get<int64_t>() >= min
                            : json.get<uint64_t>() <= max &&
                                  (min <= 0 || json.get<uint64_t>() >= static_cast<uint64_t>(min));
  if (!in_range) {
    if (rule != nullptr && rule->text != nullptr)
      return reader.fail_value("", rule->text, shown_json(json));
    return range_error(reader, json, min, max);
  }
  switch (kind) {
    case Kind::kInt32:
      *static_cast<int32_t*>(out) = json.get<int32_t>();
      return true;
    case Kind::kUint32:
      *static_cast<uint32_t*>(out) = json.get<uint32_t>();
      return true;
    case Kind::kInt64:
      *static_cast<int64_t*>(out) = json.get<int64_t>();
      return true;
    default:
      *static_cast<uint64_t*>(out) = json.get<uint64_t>();
      return true;
  }
}

bool read_list(Reader& reader, const Json& json, const Type& type, const Rule* rule, void* out) {
  if (!json.is_array()) return wrong_type(reader, json, "must be an array");
  const size_t here = reader.path_size();
  size_t index = 0;
  for (const Json& element : json) {
    reader.enter(fmt::format("{}", index++));
    if (!read_value(reader, element, *type.element, rule, type.add(out))) return false;
    reader.leave(here);
  }
  return true;
}

bool read_map(Reader& reader, const Json& json, const Type& type, const Rule* rule, void* out) {
  if (!json.is_object()) return wrong_type(reader, json, "must be an object");
  const size_t here = reader.path_size();
  for (auto entry = json.begin(); entry != json.end(); ++entry) {
    const std::string& key = entry.key();
    if (!check_string(reader, rule != nullptr ? rule->keys : nullptr, key, "has a key that "))
      return false;
    reader.enter(key);
    if (!read_value(reader, entry.value(), *type.element, rule, type.insert(out, key)))
      return false;
    reader.leave(here);
  }
  return true;
}

bool is_known(const Type& type, const std::string& name) {
  for (size_t i = 0; i < type.field_count; ++i)
    if (name == type.fields[i].name) return true;
  return false;
}

bool read_struct(Reader& reader, const Json& json, const Type& type, void* out) {
  if (!json.is_object()) return wrong_type(reader, json, "must be an object");
  const size_t here = reader.path_size();
  for (size_t i = 0; i < type.field_count; ++i) {
    const Field& field = type.fields[i];
    const auto member = json.find(field.name);
    if (member == json.end() || member->is_null()) {
      if (field.presence != Presence::kRequired) continue;
      return reader.fail(std::string("/") + field.name, "is required");
    }
    reader.enter(field.name);
    if (!read_value(reader, *member, *field.type, field.rule, field.get(out))) return false;
    reader.leave(here);
  }
  // runtime-spec 1.2 config.md#extensibility: unknown properties are ignored, not refused.
  for (auto entry = json.begin(); entry != json.end(); ++entry) {
    if (is_known(type, entry.key())) continue;
    reader.enter(entry.key());
    reader.warn("", "is not a member that this runtime knows, ignoring");
    reader.leave(here);
  }
  return type.check == nullptr || type.check(reader, out);
}

bool is_empty(const Type& type, const void* value) {
  switch (type.kind) {
    case Kind::kBool:
      return !*static_cast<const bool*>(value);
    case Kind::kString:
      return static_cast<const std::string*>(value)->empty();
    case Kind::kInt32:
      return *static_cast<const int32_t*>(value) == 0;
    case Kind::kUint32:
      return *static_cast<const uint32_t*>(value) == 0;
    case Kind::kInt64:
      return *static_cast<const int64_t*>(value) == 0;
    case Kind::kUint64:
      return *static_cast<const uint64_t*>(value) == 0;
    case Kind::kStruct:
      return write_value(type, value).empty();
    default:
      return type.size(value) == 0;
  }
}

Json write_struct(const Type& type, const void* value) {
  Json out = Json::object();
  for (size_t i = 0; i < type.field_count; ++i) {
    const Field& field = type.fields[i];
    // `get` serves reading too; nothing is written through it here.
    const void* member = field.get(const_cast<void*>(value));
    if (field.presence == Presence::kOptional && is_empty(*field.type, member)) continue;
    out[field.name] = write_value(*field.type, member);
  }
  return out;
}

struct MapWriter {
  const Type* element;
  Json out = Json::object();
};

void write_entry(void* context, const std::string& key, const void* value) {
  auto* writer = static_cast<MapWriter*>(context);
  writer->out[key] = write_value(*writer->element, value);
}

}  // namespace

// The pointer to the whole document is the empty string: the file's name stands alone.
std::string Reader::located(std::string_view member) const {
  if (path_.empty() && member.empty()) return file_ + ": ";
  return fmt::format("{}: {}{}: ", file_, path_, member);
}

bool Reader::fail(std::string_view member, std::string_view rule) {
  error_ = located(member) + std::string(rule);
  return false;
}

bool Reader::fail_value(std::string_view member, std::string_view rule, std::string_view value) {
  error_ = fmt::format("{}{}, is `{}`", located(member), rule, shown(value));
  return false;
}

void Reader::warn(std::string_view member, std::string_view text) {
  if (warnings_ == nullptr) return;
  warnings_->push_back(located(member) + std::string(text));
}

void Reader::enter(std::string_view key) {
  path_ += '/';
  for (const char c : key) {  // RFC 6901 §3
    if (c == '~')
      path_ += "~0";
    else if (c == '/')
      path_ += "~1";
    else
      path_ += c;
  }
}

bool read_value(Reader& reader, const Json& json, const Type& type, const Rule* rule, void* out) {
  switch (type.kind) {
    case Kind::kBool:
      if (!json.is_boolean()) return wrong_type(reader, json, "must be true or false");
      *static_cast<bool*>(out) = json.get<bool>();
      return true;
    case Kind::kString:
      if (!json.is_string()) return wrong_type(reader, json, "must be a string");
      *static_cast<std::string*>(out) = json.get_ref<const std::string&>();
      return check_string(reader, rule, *static_cast<const std::string*>(out));
    case Kind::kOptional:
      return read_value(reader, json, *type.element, rule, type.add(out));
    case Kind::kList:
      return read_list(reader, json, type, rule, out);
    case Kind::kMap:
      return read_map(reader, json, type, rule, out);
    case Kind::kStruct:
      return read_struct(reader, json, type, out);
    default:
      return read_integer(reader, json, type.kind, rule, out);
  }
}

Json write_value(const Type& type, const void* value) {
  switch (type.kind) {
    case Kind::kBool:
      return Json(*static_cast<const bool*>(value));
    case Kind::kString:
      return Json(*static_cast<const std::string*>(value));
    case Kind::kInt32:
      return Json(*static_cast<const int32_t*>(value));
    case Kind::kUint32:
      return Json(*static_cast<const uint32_t*>(value));
    case Kind::kInt64:
      return Json(*static_cast<const int64_t*>(value));
    case Kind::kUint64:
      return Json(*static_cast<const uint64_t*>(value));
    case Kind::kOptional:
      return type.size(value) == 0 ? Json() : write_value(*type.element, type.at(value, 0));
    case Kind::kList: {
      Json out = Json::array();
      for (size_t i = 0; i < type.size(value); ++i)
        out.push_back(write_value(*type.element, type.at(value, i)));
      return out;
    }
    case Kind::kMap: {
      MapWriter writer{type.element};
      type.visit(value, write_entry, &writer);
      return std::move(writer.out);
    }
    default:
      return write_struct(type, value);
  }
}

}  // namespace kiln::oci
