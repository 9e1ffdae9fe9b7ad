// SPDX-License-Identifier: Apache-2.0
#include "agent/core/container_dial.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstring>

#include "base/file.h"
#include "base/format.h"
#include "base/unix_socket.h"

namespace kiln::agent {
namespace {

constexpr int kRoot = 3;  // the child's descriptors
constexpr int kReport = 4;

Result<UniqueFd> connect_in_root(int root_fd, const std::string& path) {
  const UniqueFd file =
      TRY(open_beneath(root_fd, path, O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS));
  struct stat info {};
  if (fstat(file.get(), &info) != 0) return sys_error("stat");
  // Of another kind nothing is to be opened, not even by connect(2).
  if (!S_ISSOCK(info.st_mode)) return sys_error("connect", ECONNREFUSED);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = fmt::format("/proc/self/fd/{}", file.get());
  std::memcpy(address.sun_path, name.data(), name.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return sys_error("create a socket");
  // A backlog that is full: EAGAIN, and nobody waits for it.
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return sys_error("connect");
  return fd;
}

// It may hang for as long as the container likes, so it holds nothing that others wait for.
[[noreturn]] void run_child(int root_fd, int report_fd, const std::string& path) {
  UniqueFd root(fcntl(root_fd, F_DUPFD_CLOEXEC, kReport + 1));
  UniqueFd report(fcntl(report_fd, F_DUPFD_CLOEXEC, kReport + 1));
  if (!root || !report || dup2(root.get(), kRoot) < 0 || dup2(report.get(), kReport) < 0)
    _exit(errno);
  close_range(kReport + 1, ~0U, 0);
  const auto socket = connect_in_root(kRoot, path);
  if (!socket) _exit(socket.error().sys_errno != 0 ? socket.error().sys_errno : EIO);
  const int fd = socket->get();
  _exit(send_with_fds(kReport, "+", std::array{fd}) ? 0 : EIO);
}

}  // namespace

Result<std::unique_ptr<ContainerDial>> ContainerDial::start(const Context& context, int root_fd,
                                                            const std::string& path,
                                                            Callbacks callbacks) {
  if (root_fd < 0)
    return make_error(ErrorKind::kFailedPrecondition, "the container has no root any more");
  std::unique_ptr<ContainerDial> dial(new ContainerDial(context, std::move(callbacks)));
  ContainerDial* self = dial.get();
  auto [answers, report] = TRY(socket_pair(SOCK_STREAM));
  self->answers_ = std::move(answers);
  const pid_t child = fork();
  if (child < 0) return sys_error("fork");
  if (child == 0) run_child(root_fd, report.get(), path);
  self->child_ = child;
  context.reaper.expect(child, [self, path](const ExitStatus& status) {
    // A number of errno; what else it may have died of is the same to the host.
    const int failed = status.signal != 0 ? EINTR : status.code;
    self->child_ = -1;
    auto socket = failed == 0 ? self->receive() : sys_error("connect", failed);
    self->finish(wrap(std::move(socket), fmt::format("connect to `{}`", path)));
    const auto on_gone = std::move(self->callbacks_.on_gone);
    if (on_gone) on_gone();
  });
  self->timer_ = context.loop.add_timer(context.timeout_ms, [self] { self->expire(); });
  return dial;
}

ContainerDial::~ContainerDial() {
  context_.loop.cancel_timer(timer_);
  if (child_ <= 0) return;
  context_.reaper.forget(child_);
  kill(child_, SIGKILL);
}

Result<UniqueFd> ContainerDial::receive() {
  ReceivedMessage message = TRY(receive_with_fds(answers_.get(), 1, MSG_DONTWAIT));
  if (message.fds.size() != 1) return sys_error("connect", EIO);
  return std::move(message.fds.front());
}

void ContainerDial::expire() {
  kill(child_, SIGKILL);
  finish(make_error(ErrorKind::kDeadlineExceeded, "the container's files do not answer"));
}

void ContainerDial::finish(Result<UniqueFd> outcome) {
  context_.loop.cancel_timer(timer_);
  const auto on_done = std::move(callbacks_.on_done);
  callbacks_.on_done = nullptr;
  if (on_done) on_done(std::move(outcome));
}

}  // namespace kiln::agent
