// SPDX-License-Identifier: Apache-2.0
// Unix sockets, with descriptors passed over them.
#pragma once

#include <sys/socket.h>

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln {

// `type`: SOCK_STREAM or SOCK_SEQPACKET. Both ends are close-on-exec and blocking.
Result<std::pair<UniqueFd, UniqueFd>> socket_pair(int type);

// Paths longer than sun_path (107 bytes) work: the directory is opened and the name taken relative
// to it through /proc/self/fd.
Result<UniqueFd> listen_unix(const std::string& path, int type = SOCK_STREAM, mode_t mode = 0600);
Result<UniqueFd> connect_unix(const std::string& path, int type = SOCK_STREAM);
// Connection from a listener; close-on-exec. `flags`: SOCK_NONBLOCK or 0.
Result<UniqueFd> accept_unix(int listener_fd, int flags = 0);

struct ReceivedMessage {
  std::string bytes;          // empty: the peer has closed
  std::vector<UniqueFd> fds;  // close-on-exec
};

constexpr size_t kMaxFdsPerMessage = 64;

// Sends all of `bytes` (not empty) with `fds` attached to the first byte. Blocking sockets; never
// raises SIGPIPE.
Result<void> send_with_fds(int socket_fd, std::string_view bytes, std::span<const int> fds);

// One recvmsg of at most `max_bytes`. A truncated SEQPACKET message or descriptor list is an error.
// `flags`: MSG_DONTWAIT or 0.
Result<ReceivedMessage> receive_with_fds(int socket_fd, size_t max_bytes, int flags = 0);

// Messages on a blocking SOCK_STREAM: 4-byte little-endian length + payload. A longer message than
// `max_bytes`, or a connection that ends inside one, is an error; one that ends between messages is
// kUnavailable.
// `fds` go with the first byte.
Result<void> send_frame(int fd, std::string_view payload, std::span<const int> fds = {});
Result<std::string> receive_frame(int fd, size_t max_bytes);

}  // namespace kiln
