// SPDX-License-Identifier: Apache-2.0
#include "agent/core/passed_fds.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "agent/container/container.h"
#include "base/format.h"
#include "base/unix_socket.h"

namespace kiln::agent {
namespace {

using protocol::Passed;

constexpr int kBacklog = 128;

Result<UniqueFd> duplicate(int fd, int least) {
  UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, least));
  if (!copy) return sys_error("duplicate a passed descriptor");
  return copy;
}

Result<void> set_nonblocking(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0)
    return sys_error("make a passed descriptor non-blocking");
  return {};
}

// unix(7), autobind: the kernel chooses a name that no container can reach, since each has a
// network namespace of its own.
Result<UniqueFd> make_listener(std::string& address) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  socklen_t size = sizeof(sa_family_t);
  if (!fd || bind(fd.get(), reinterpret_cast<const sockaddr*>(&name), size) != 0 ||
      listen(fd.get(), kBacklog) != 0)
    return sys_error("create a listening socket");
  size = sizeof name;
  if (getsockname(fd.get(), reinterpret_cast<sockaddr*>(&name), &size) != 0)
    return sys_error("name a listening socket");
  address.assign(reinterpret_cast<const char*>(&name), size);
  return fd;
}

Result<UniqueFd> connect_to(const std::string& address) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return sys_error("create a socket");
  sockaddr_un name{};
  std::memcpy(&name, address.data(), address.size());
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&name),
              static_cast<socklen_t>(address.size())) != 0)
    return sys_error("connect to the process's listening socket");
  return fd;
}

Result<StreamEnds> both_ways(UniqueFd fd) {
  StreamEnds ends;
  ends.from_process = TRY(duplicate(fd.get(), 0));
  ends.to_process = std::move(fd);
  ends.duplex = true;
  return ends;
}

}  // namespace

Result<PassedFds> PassedFds::create(const std::vector<Passed>& wanted,
                                    std::vector<UniqueFd>& theirs) {
  PassedFds ours;
  for (const Passed kind : wanted) {
    End end;
    end.kind = kind;
    UniqueFd given;
    if (kind == Passed::kListener) {
      given = TRY(make_listener(end.address));
    } else {
      auto [here, there] = TRY(socket_pair(SOCK_STREAM));
      end.fd = std::move(here);
      given = std::move(there);
      if (kind == Passed::kReader) shutdown(given.get(), SHUT_WR);
      if (kind == Passed::kWriter) shutdown(given.get(), SHUT_RD);
    }
    if (end.fd) TRY(set_nonblocking(end.fd.get()));
    theirs.push_back(TRY(duplicate(given.get(), kAbovePassed)));
    ours.ends_.push_back(std::move(end));
  }
  return ours;
}

Result<StreamEnds> PassedFds::take(size_t index) {
  const std::string name = protocol::passed_stream(index);
  if (index >= ends_.size())
    return make_error(ErrorKind::kNotFound, fmt::format("the process has no stream `{}`", name));
  End& end = ends_[index];
  if (end.kind == Passed::kListener) return both_ways(TRY(connect_to(end.address)));
  if (!end.fd)
    return make_error(ErrorKind::kAlreadyExists, fmt::format("`{}` is connected already", name));
  if (end.kind == Passed::kSocket) return both_ways(std::move(end.fd));
  StreamEnds ends;
  (end.kind == Passed::kReader ? ends.to_process : ends.from_process) = std::move(end.fd);
  return ends;
}

bool PassedFds::all_taken() const {
  for (const End& end : ends_)
    if (end.fd) return false;
  return true;
}

}  // namespace kiln::agent
