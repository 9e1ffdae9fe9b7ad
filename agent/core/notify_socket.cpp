// SPDX-License-Identifier: Apache-2.0
#include "agent/core/notify_socket.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string_view>

#include "agent/protocol/messages.h"
#include "base/format.h"

namespace kiln::agent {
namespace {

constexpr unsigned kBurst = 64;  // datagrams; then one a second

Result<UniqueFd> bind_datagrams(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return make_error(ErrorKind::kInvalidArgument, fmt::format("`{}` is too long", path));
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return sys_error("create a datagram socket");
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return sys_error(fmt::format("bind `{}`", path));
  // Whoever the container's processes are.
  if (chmod(path.c_str(), 0777) != 0) return sys_error(fmt::format("chmod `{}`", path));
  return fd;
}

std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty() && lines.size() < protocol::kMaxNotifyLines) {
    const size_t end = std::min(text.find('\n'), text.size());
    if (end > 0) lines.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

}  // namespace

NotifySocket::NotifySocket(EventLoop& loop, LinesCallback on_lines)
    : loop_(loop), on_lines_(std::move(on_lines)), limit_(kBurst) {}

Result<std::unique_ptr<NotifySocket>> NotifySocket::create(EventLoop& loop,
                                                           const std::string& parent,
                                                           const std::string& name,
                                                           LinesCallback on_lines) {
  std::unique_ptr<NotifySocket> made(new NotifySocket(loop, std::move(on_lines)));
  NotifySocket* self = made.get();
  std::string directory = parent + "/notify-XXXXXX";
  if (mkdtemp(directory.data()) == nullptr)
    return sys_error(fmt::format("create a directory in `{}`", parent));
  self->directory_ = directory;
  if (chmod(directory.c_str(), 0755) != 0) return sys_error(fmt::format("chmod `{}`", directory));
  self->path_ = directory + "/" + name;
  self->socket_ = TRY(bind_datagrams(self->path_));
  TRY(loop.add_fd(self->socket_.get(), EPOLLIN, [self](uint32_t) { self->read_one(); }));
  return made;
}

NotifySocket::~NotifySocket() {
  if (socket_) loop_.remove_fd(socket_.get());
  if (!path_.empty()) unlink(path_.c_str());
  if (!directory_.empty()) rmdir(directory_.c_str());
}

void NotifySocket::read_one() {
  std::string text(protocol::kMaxNotifyBytes + 1, '\0');
  const ssize_t got = recv(socket_.get(), text.data(), text.size(), MSG_DONTWAIT);
  if (got <= 0) return;
  text.resize(static_cast<size_t>(got));
  // That the service is up is said whatever it said before.
  const bool ready = text.starts_with("READY=1") || text.find("\nREADY=1") != std::string::npos;
  if (text.size() > protocol::kMaxNotifyBytes || (!limit_.allow() && !ready)) return;
  auto lines = lines_of(text);
  if (!lines.empty()) on_lines_(std::move(lines));
}

}  // namespace kiln::agent
