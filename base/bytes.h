// SPDX-License-Identifier: Apache-2.0
// Bounds-checked reading of little-endian fields from bytes that came from elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>

namespace kiln {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "structs are copied as they lie in memory");

// Consumes a span from the front. A read past the end yields nullopt and consumes nothing.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : rest_(bytes) {}

  template <typename T>
  std::optional<T> read() {
    static_assert(std::is_trivially_copyable_v<T>);
    if (rest_.size() < sizeof(T)) return std::nullopt;
    T value;
    std::memcpy(&value, rest_.data(), sizeof(T));
    rest_ = rest_.subspan(sizeof(T));
    return value;
  }

  std::optional<std::span<const std::byte>> read_bytes(size_t size) {
    if (rest_.size() < size) return std::nullopt;
    auto out = rest_.first(size);
    rest_ = rest_.subspan(size);
    return out;
  }

  // A string up to its NUL, which is consumed but not returned; nullopt without a NUL.
  std::optional<std::string_view> read_c_string() {
    const void* end = rest_.empty() ? nullptr : std::memchr(rest_.data(), 0, rest_.size());
    if (end == nullptr) return std::nullopt;
    const auto size = static_cast<size_t>(static_cast<const std::byte*>(end) - rest_.data());
    const std::string_view out(reinterpret_cast<const char*>(rest_.data()), size);
    rest_ = rest_.subspan(size + 1);
    return out;
  }

  std::span<const std::byte> rest() const { return rest_; }

 private:
  std::span<const std::byte> rest_;
};

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

}  // namespace kiln
