// SPDX-License-Identifier: Apache-2.0
// One FUSE request as the session sees it, and its answer.
#pragma once

#include <linux/fuse.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace kiln::vmm {

// Everything in it is guest-controlled; what is not `payload` was copied out of guest memory.
struct FuseRequest {
  fuse_in_header header{};
  // What follows the header; of a WRITE only fuse_write_in.
  std::span<const std::byte> arguments;
  // A WRITE's bytes: guest memory, for the kernel to read.
  std::span<const iovec> payload;
  uint32_t payload_size = 0;
  // Where the body of the answer goes: guest memory, for the kernel to write. For READ.
  std::span<const iovec> space;
  uint32_t space_size = 0;
};

struct FuseReply {
  enum class Kind {
    kAnswer,
    kNone,   // forget has no answer
    kLater,  // try the request again in a while: a lock is held by somebody else
  };
  Kind kind = Kind::kAnswer;
  int error = 0;                // 0 or -errno
  std::vector<std::byte> body;  // capacity is kept from one request to the next
  uint32_t in_place = 0;        // bytes that READ has put into `space`; then there is no body

  void clear() {
    kind = Kind::kAnswer;
    error = 0;
    body.clear();
    in_place = 0;
  }
};

}  // namespace kiln::vmm
