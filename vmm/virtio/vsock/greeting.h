// SPDX-License-Identifier: Apache-2.0
// What a host's client says first on the vsock's Unix socket: `CONNECT <port>\n`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"

namespace kiln::vmm {

constexpr size_t kMaxGreetingBytes = 32;

// The port of a whole line, without its newline.
std::optional<uint32_t> parse_connect_line(std::string_view line);
std::string connect_answer(uint32_t host_port);

// Takes the line off a non-blocking stream socket, and not a byte more: what follows is the
// guest's. nullopt: not there yet.
Result<std::optional<uint32_t>> receive_connect_line(int socket_fd);

}  // namespace kiln::vmm
