// SPDX-License-Identifier: Apache-2.0
#include "base/unix_socket.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <array>
#include <cstring>
#include <filesystem>

#include "base/file.h"
#include "base/format.h"

namespace kiln {
namespace {

struct Address {
  sockaddr_un un{};
  UniqueFd directory;  // keeps the /proc/self/fd path alive
};

Result<Address> address_of(const std::string& path) {
  Address address;
  address.un.sun_family = AF_UNIX;
  std::string usable = path;
  if (usable.size() >= sizeof address.un.sun_path) {
    const std::filesystem::path parts(path);
    address.directory.reset(::open(parts.parent_path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!address.directory)
      return sys_error(fmt::format("open `{}`", parts.parent_path().native()));
    usable = fmt::format("/proc/self/fd/{}/{}", address.directory.get(), parts.filename().native());
    if (usable.size() >= sizeof address.un.sun_path) {
      return sys_error(fmt::format("use socket `{}`", path), ENAMETOOLONG);
    }
  }
  std::memcpy(address.un.sun_path, usable.c_str(), usable.size() + 1);
  return address;
}

}  // namespace

Result<std::pair<UniqueFd, UniqueFd>> socket_pair(int type) {
  std::array<int, 2> fds{};
  if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds.data()) != 0)
    return sys_error("create a socket pair");
  return std::pair(UniqueFd(fds[0]), UniqueFd(fds[1]));
}

Result<UniqueFd> listen_unix(const std::string& path, int type, mode_t mode) {
  const Address address = TRY(address_of(path));
  UniqueFd fd(socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  if (!fd) return sys_error("create a socket");
  if (fchmod(fd.get(), mode) != 0)
    return sys_error("set a socket's mode");  // becomes the file's mode at bind
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address.un), sizeof address.un) != 0) {
    return sys_error(fmt::format("bind `{}`", path));
  }
  if (listen(fd.get(), SOMAXCONN) != 0) return sys_error(fmt::format("listen on `{}`", path));
  return fd;
}

Result<UniqueFd> connect_unix(const std::string& path, int type) {
  const Address address = TRY(address_of(path));
  UniqueFd fd(socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  if (!fd) return sys_error("create a socket");
  if (retry_eintr([&] {
        return connect(fd.get(), reinterpret_cast<const sockaddr*>(&address.un), sizeof address.un);
      }) != 0) {
    return sys_error(fmt::format("connect to `{}`", path));
  }
  return fd;
}

Result<UniqueFd> accept_unix(int listener_fd, int flags) {
  UniqueFd fd(
      retry_eintr([&] { return accept4(listener_fd, nullptr, nullptr, SOCK_CLOEXEC | flags); }));
  if (!fd) return sys_error("accept a connection");
  return fd;
}

Result<void> send_with_fds(int socket_fd, std::string_view bytes, std::span<const int> fds) {
  if (bytes.empty() || fds.size() > kMaxFdsPerMessage)
    return invalid_argument("send a message: bad size");
  std::array<char, CMSG_SPACE(sizeof(int) * kMaxFdsPerMessage)> control{};
  iovec part{const_cast<char*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  }
  const ssize_t sent = retry_eintr([&] { return sendmsg(socket_fd, &message, MSG_NOSIGNAL); });
  if (sent < 0) return sys_error("send a message");
  const auto rest = bytes.substr(static_cast<size_t>(sent));
  return rest.empty() ? Result<void>() : send_with_fds(socket_fd, rest, {});
}

Result<ReceivedMessage> receive_with_fds(int socket_fd, size_t max_bytes, int flags) {
  ReceivedMessage received;
  received.bytes.resize(max_bytes);
  std::array<char, CMSG_SPACE(sizeof(int) * kMaxFdsPerMessage)> control{};
  iovec part{received.bytes.data(), received.bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t size =
      retry_eintr([&] { return recvmsg(socket_fd, &message, MSG_CMSG_CLOEXEC | flags); });
  if (size < 0) return sys_error("receive a message");
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
      received.fds.emplace_back(fd);
    }
  }
  if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    return make_error(ErrorKind::kOutOfRange, "receive a message: longer than expected");
  }
  received.bytes.resize(static_cast<size_t>(size));
  return received;
}

Result<void> send_frame(int fd, std::string_view payload, std::span<const int> fds) {
  const auto size = static_cast<uint32_t>(payload.size());
  std::string bytes(sizeof size, '\0');
  std::memcpy(bytes.data(), &size, sizeof size);
  bytes += payload;
  return send_with_fds(fd, bytes, fds);
}

Result<std::string> receive_frame(int fd, size_t max_bytes) {
  uint32_t size = 0;
  const size_t got = TRY(read_fully(fd, &size, sizeof size));
  if (got == 0)
    return make_error(ErrorKind::kUnavailable,
                      "receive a message: the peer has closed the connection");
  if (got < sizeof size)
    return make_error(ErrorKind::kDataLoss, "receive a message: it is cut short");
  if (size > max_bytes) {
    return make_error(ErrorKind::kOutOfRange,
                      fmt::format("receive a message: {} bytes are too long", size));
  }
  std::string payload(size, '\0');
  if (TRY(read_fully(fd, payload.data(), size)) < size) {
    return make_error(ErrorKind::kDataLoss, "receive a message: it is cut short");
  }
  return payload;
}

}  // namespace kiln
