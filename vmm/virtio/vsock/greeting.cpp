// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/vsock/greeting.h"

#include <sys/socket.h>

#include <array>
#include <charconv>

#include "base/file.h"
#include "base/format.h"

namespace kiln::vmm {

std::optional<uint32_t> parse_connect_line(std::string_view line) {
  constexpr std::string_view kCommand = "CONNECT ";
  if (!line.starts_with(kCommand)) return std::nullopt;
  line.remove_prefix(kCommand.size());
  uint32_t port = 0;
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), port);
  if (error != std::errc() || end != line.data() + line.size()) return std::nullopt;
  return port;
}

std::string connect_answer(uint32_t host_port) { return format("OK {}\n", host_port); }

Result<std::optional<uint32_t>> receive_connect_line(int socket_fd) {
  std::array<char, kMaxGreetingBytes> buffer{};
  const auto receive = [&](size_t size, int flags) {
    return retry_eintr([&] { return recv(socket_fd, buffer.data(), size, flags | MSG_DONTWAIT); });
  };
  const ssize_t seen = receive(buffer.size(), MSG_PEEK);
  if (seen < 0 && errno == EAGAIN) return std::nullopt;
  if (seen < 0) return sys_error("receive");
  if (seen == 0) return make_error(ErrorKind::kUnavailable, "the client has closed");
  const std::string_view text(buffer.data(), static_cast<size_t>(seen));
  const size_t end = text.find('\n');
  if (end == std::string_view::npos) {
    if (text.size() == buffer.size()) return invalid_argument("the client's line is too long");
    return std::nullopt;
  }
  const auto port = parse_connect_line(text.substr(0, end));
  if (!port) return invalid_argument("the client did not say `CONNECT <port>`");
  if (receive(end + 1, 0) != static_cast<ssize_t>(end + 1)) return sys_error("receive");
  return port;
}

}  // namespace kiln::vmm
