// SPDX-License-Identifier: Apache-2.0
// What tests read from a socket whose other end is driven by an event loop of theirs.
#pragma once

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/event_loop.h"
#include "base/unique_fd.h"

namespace kiln {

// Turns the loop until `size` bytes have come; what came if it is less, at the end or after ten
// seconds.
inline std::string take_bytes(EventLoop& loop, const UniqueFd& fd, size_t size) {
  std::string out;
  std::array<char, 70000> buffer{};
  for (int i = 0; i < 1000 && out.size() < size; ++i) {
    const ssize_t got =
        recv(fd.get(), buffer.data(), std::min(buffer.size(), size - out.size()), MSG_DONTWAIT);
    if (got == 0) break;
    if (got > 0) {
      out.append(buffer.data(), static_cast<size_t>(got));
    } else {
      static_cast<void>(loop.run_once(10));
    }
  }
  return out;
}

// As FrameConnection sends it.
inline std::string framed(std::string_view payload) {
  const auto size = static_cast<uint32_t>(payload.size());
  return std::string(reinterpret_cast<const char*>(&size), sizeof size).append(payload);
}

}  // namespace kiln
