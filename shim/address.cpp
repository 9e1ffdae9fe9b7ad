// SPDX-License-Identifier: Apache-2.0
#include "shim/address.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "base/format.h"
#include "base/unix_socket.h"
#include "runtime/guest/sha256.h"

namespace kiln::shim {

std::string socket_path(const std::string& directory, const std::string& containerd_address,
                        const std::string& namespace_name, const std::string& group) {
  return fmt::format("{}/{}", directory,
                     runtime::sha256_hex(fmt::format("kiln\n{}\n{}\n{}", containerd_address,
                                                     namespace_name, group)));
}

bool is_served(const std::string& path) { return connect_unix(path).has_value(); }

void remove_dead_socket(const std::string& path) {
  if (!is_served(path)) unlink(path.c_str());
}

std::string socket_of(int fd) {
  sockaddr_un address{};
  socklen_t size = sizeof address;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0 ||
      address.sun_family != AF_UNIX || size <= offsetof(sockaddr_un, sun_path))
    return {};
  // unix(7): a path that fills it has no end mark.
  return {address.sun_path, strnlen(address.sun_path, sizeof address.sun_path)};
}

std::string without_scheme(std::string address) {
  if (address.starts_with(kScheme)) address.erase(0, std::char_traits<char>::length(kScheme));
  return address;
}

}  // namespace kiln::shim
