// SPDX-License-Identifier: Apache-2.0
// Taking a request's arguments apart, and putting an answer's body together.
#pragma once

#include <cstring>
#include <optional>
#include <string_view>
#include <type_traits>

#include "base/bytes.h"
#include "vmm/virtio/fs/fuse_request.h"

namespace kiln::vmm {

template <typename T>
std::optional<T> take(ByteReader& arguments) {
  return arguments.read<T>();
}

// A file's name as the guest may say it: one component, no more. One that is too long is for the
// file system below to refuse, by ENAMETOOLONG.
inline std::optional<std::string_view> take_name(ByteReader& arguments) {
  const auto name = arguments.read_c_string();
  if (!name || name->empty() || *name == "." || *name == ".." ||
      name->find('/') != std::string_view::npos)
    return std::nullopt;
  return name;
}

template <typename T>
void put(FuseReply& reply, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  const auto bytes = std::as_bytes(std::span(&value, 1));
  reply.body.insert(reply.body.end(), bytes.begin(), bytes.end());
}

inline void put_bytes(FuseReply& reply, const void* data, size_t size) {
  const auto* bytes = static_cast<const std::byte*>(data);
  reply.body.insert(reply.body.end(), bytes, bytes + size);
}

}  // namespace kiln::vmm
