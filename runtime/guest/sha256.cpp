// SPDX-License-Identifier: Apache-2.0
#include "runtime/guest/sha256.h"

#include <cstdint>

// libmd's header wants it first.
#include <sys/types.h>
// clang-format off
#include <sha2.h>
// clang-format on

namespace kiln::runtime {

std::string sha256_hex(std::string_view bytes) {
  SHA2_CTX context;
  SHA256Init(&context);
  SHA256Update(&context, reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  char text[SHA256_DIGEST_STRING_LENGTH];
  SHA256End(&context, static_cast<char*>(text));
  return static_cast<char*>(text);
}

}  // namespace kiln::runtime
