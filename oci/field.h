// SPDX-License-Identifier: Apache-2.0
// Tables that say how a struct's members are called in JSON, which type they have and which rule
// they obey; one reader and one writer walk them. Tables instead of templates because this is in
// the guest agent, where size counts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "base/json.h"

namespace kiln::oci {

// Where the reader is, what went wrong there, and what is odd but harmless.
class Reader {
 public:
  // `file`: what messages begin with. `warnings` may be null.
  Reader(std::string file, std::vector<std::string>* warnings)
      : file_(std::move(file)), warnings_(warnings) {}

  // All return false, for `return reader.fail(…)`. `member` is relative to where the reader is,
  // with its slash: "/soft", "/args/0"; empty: the value itself.
  bool fail(std::string_view member, std::string_view rule);
  bool fail_value(std::string_view member, std::string_view rule, std::string_view value);
  void warn(std::string_view member, std::string_view text);

  void enter(std::string_view key);  // then leave(the size before)
  void leave(size_t size) { path_.resize(size); }
  size_t path_size() const { return path_.size(); }
  Error take_error() { return {ErrorKind::kInvalidArgument, 0, std::move(error_)}; }

 private:
  std::string located(std::string_view member) const;

  std::string file_;
  std::string path_;  // RFC 6901 pointer
  std::string error_;
  std::vector<std::string>* warnings_;
};

// What a value must obey beyond its type. In a list or an optional it is about each element.
struct Rule {
  // Put after the pointer: "must be an absolute path". Null: made from `values` or the range.
  const char* text = nullptr;
  bool (*accepts)(std::string_view) = nullptr;  // strings
  const char* const* values = nullptr;          // strings: the only ones, then a null
  int64_t min = std::numeric_limits<int64_t>::min();
  int64_t max = std::numeric_limits<int64_t>::max();
  const Rule* keys = nullptr;  // maps: of each key
};

enum class Kind : uint8_t {
  kBool,
  kString,
  kInt32,
  kUint32,
  kInt64,
  kUint64,
  kOptional,  // accessed as a list of at most one
  kList,
  kMap,
  kStruct,
};

struct Field;
using VisitEntry = void (*)(void* context, const std::string& key, const void* value);

struct Type {
  Kind kind;
  const Type* element = nullptr;                            // optional, list, map
  size_t (*size)(const void*) = nullptr;                    // optional, list, map
  const void* (*at)(const void*, size_t) = nullptr;         // optional, list
  void* (*add)(void*) = nullptr;                            // optional, list: a new element
  void* (*insert)(void*, const std::string&) = nullptr;     // map
  void (*visit)(const void*, VisitEntry, void*) = nullptr;  // map
  const Field* fields = nullptr;                            // struct
  size_t field_count = 0;                                   // struct
  bool (*check)(Reader& reader, void* object) = nullptr;    // struct: rules across fields
};

enum class Presence : uint8_t {
  kRequired,  // an error without it
  kWritten,   // may be absent, is always written
  kOptional,  // written unless it is empty, zero or false
};

struct Field {
  const char* name;
  void* (*get)(void* object);
  const Type* type;
  Presence presence;
  const Rule* rule;
};

// JSON → the struct that `type` describes, which `out` points at. False: reader.take_error().
// null stands for an absent member, as Go's encoder writes it for an empty list.
bool read_value(Reader& reader, const Json& json, const Type& type, const Rule* rule, void* out);
Json write_value(const Type& type, const void* value);

// The descriptor of T. Specialised for structs where their tables are.
template <typename T>
struct TypeOf;

template <Kind kKind>
struct ScalarType {
  static constexpr Type kType{.kind = kKind};
};
template <>
struct TypeOf<bool> : ScalarType<Kind::kBool> {};
template <>
struct TypeOf<std::string> : ScalarType<Kind::kString> {};
template <>
struct TypeOf<int32_t> : ScalarType<Kind::kInt32> {};
template <>
struct TypeOf<uint32_t> : ScalarType<Kind::kUint32> {};
template <>
struct TypeOf<int64_t> : ScalarType<Kind::kInt64> {};
template <>
struct TypeOf<uint64_t> : ScalarType<Kind::kUint64> {};

template <typename T>
struct TypeOf<std::optional<T>> {
  static constexpr Type kType{
      .kind = Kind::kOptional,
      .element = &TypeOf<T>::kType,
      .size = [](const void* p) -> size_t {
        return static_cast<const std::optional<T>*>(p)->has_value() ? 1 : 0;
      },
      .at = [](const void* p, size_t) -> const void* {
        return &**static_cast<const std::optional<T>*>(p);
      },
      .add = [](void* p) -> void* { return &static_cast<std::optional<T>*>(p)->emplace(); },
  };
};

template <typename T>
struct TypeOf<std::vector<T>> {
  static constexpr Type kType{
      .kind = Kind::kList,
      .element = &TypeOf<T>::kType,
      .size = [](const void* p) { return static_cast<const std::vector<T>*>(p)->size(); },
      .at = [](const void* p, size_t i) -> const void* {
        return static_cast<const std::vector<T>*>(p)->data() + i;
      },
      .add = [](void* p) -> void* { return &static_cast<std::vector<T>*>(p)->emplace_back(); },
  };
};

template <typename T>
struct TypeOf<std::map<std::string, T>> {
  using Map = std::map<std::string, T>;
  static constexpr Type kType{
      .kind = Kind::kMap,
      .element = &TypeOf<T>::kType,
      .size = [](const void* p) { return static_cast<const Map*>(p)->size(); },
      .insert = [](void* p, const std::string& key) -> void* {
        return &(*static_cast<Map*>(p))[key];
      },
      .visit =
          [](const void* p, VisitEntry visit, void* context) {
            for (const auto& [key, element] : *static_cast<const Map*>(p))
              visit(context, key, &element);
          },
  };
};

namespace internal {
template <typename Class, typename Member>
Class class_of(Member Class::*);
template <typename Class, typename Member>
Member member_of(Member Class::*);
}  // namespace internal

template <auto kMember>
constexpr Field field(const char* name, Presence presence = Presence::kOptional,
                      const Rule* rule = nullptr) {
  using Class = decltype(internal::class_of(kMember));
  using Member = decltype(internal::member_of(kMember));
  return {name, [](void* object) -> void* { return &(static_cast<Class*>(object)->*kMember); },
          &TypeOf<Member>::kType, presence, rule};
}

template <size_t kCount>
constexpr Type struct_type(const Field (&fields)[kCount], bool (*check)(Reader&, void*) = nullptr) {
  return {.kind = Kind::kStruct, .fields = fields, .field_count = kCount, .check = check};
}

}  // namespace kiln::oci
