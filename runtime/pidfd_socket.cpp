// SPDX-License-Identifier: Apache-2.0
#include "runtime/pidfd_socket.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <array>

#include "base/format.h"
#include "base/unix_socket.h"

namespace kiln::runtime {

Result<void> send_pidfd(int socket, const std::string& what, int pidfd) {
  const std::array<int, 1> fds{pidfd};
  return wrap(send_with_fds(socket, what, fds), "send the pidfd");
}

Result<UniqueFd> open_pidfd(pid_t pid) {
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd) return sys_error(fmt::format("open a pidfd of process {}", pid));
  return pidfd;
}

}  // namespace kiln::runtime
