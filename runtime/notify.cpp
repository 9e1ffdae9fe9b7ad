// SPDX-License-Identifier: Apache-2.0
#include "runtime/notify.h"

#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/format.h"
#include "base/unix_socket.h"
#include "oci/mount_options.h"

namespace kiln::runtime {
namespace {

constexpr char kVariable[] = "NOTIFY_SOCKET=";
constexpr char kDirectory[] = "/run/notify";
constexpr char kName[] = "notify.sock";
constexpr unsigned kBurst = 128;  // datagrams; then one a second

// sd_notify(3). The rest is the runtime's own to say, or means nothing without descriptors.
constexpr std::array<std::string_view, 8> kRelayed{
    "READY=", "RELOADING=", "STOPPING=", "STATUS=",
    "ERRNO=", "BUSERROR=",  "WATCHDOG=", "EXTEND_TIMEOUT_USEC=",
};

bool is_bind(const oci::Mount& mount) {
  const auto options = oci::parse_mount_options(mount.options);
  return mount.type == "bind" || (options && options->bind);
}

// Of several mounts on one directory the last one is seen.
std::optional<size_t> mount_at(const oci::Spec& spec, const std::string& directory) {
  for (size_t i = spec.mounts.size(); i-- > 0;) {
    std::string destination = spec.mounts[i].destination;
    while (destination.size() > 1 && destination.back() == '/') destination.pop_back();
    if (destination == directory) return is_bind(spec.mounts[i]) ? std::optional(i) : std::nullopt;
  }
  return std::nullopt;
}

std::optional<NotifyRoute> route_of_mount(const oci::Spec& spec, const std::string& bundle) {
  std::string path;
  for (const std::string& variable : spec.process->env) {
    if (variable.starts_with(kVariable)) path = variable.substr(sizeof kVariable - 1);
  }
  const size_t slash = path.rfind('/');
  if (!path.starts_with('/') || slash == 0 || slash + 1 == path.size()) return std::nullopt;
  const auto mount = mount_at(spec, path.substr(0, slash));
  if (!mount) return std::nullopt;
  NotifyRoute route;
  route.mount = *mount;
  route.name = path.substr(slash + 1);
  const std::string& source = spec.mounts[*mount].source;
  route.host_socket = (source.starts_with('/') ? source : bundle + "/" + source) + "/" + route.name;
  // Without the socket it is a directory like any other.
  if (access(route.host_socket.c_str(), W_OK) != 0) return std::nullopt;
  return route;
}

Result<UniqueFd> connect_abstract(const std::string& name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (name.size() > sizeof address.sun_path)
    return make_error(ErrorKind::kInvalidArgument, "the name is too long");
  std::memcpy(address.sun_path, name.data(), name.size());
  address.sun_path[0] = '\0';
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
  UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket || connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0)
    return sys_error("connect");
  return socket;
}

Result<UniqueFd> connect_to(const std::string& name) {
  if (name.starts_with('@')) return connect_abstract(name);
  if (name.starts_with('/')) return connect_unix(name, SOCK_DGRAM | SOCK_NONBLOCK);
  return invalid_argument("it is neither a path nor an abstract name");
}

}  // namespace

std::optional<NotifyRoute> route_notifications(oci::Spec& spec, const std::string& notify_socket,
                                               const std::string& bundle) {
  if (notify_socket.empty()) return route_of_mount(spec, bundle);
  NotifyRoute route{spec.mounts.size(), kName, notify_socket, true};
  oci::Mount mount;
  mount.destination = kDirectory;
  mount.type = "bind";
  mount.source = kDirectory;  // of the guest: the agent puts its own there
  mount.options = {"bind", "nosuid", "noexec", "nodev", "ro"};
  spec.mounts.push_back(std::move(mount));
  spec.process->env.push_back(fmt::format("{}{}/{}", kVariable, kDirectory, kName));
  return route;
}

NotifyRelay::NotifyRelay(EventLoop& loop, NotifyRoute route, pid_t main_pid, UniqueFd socket)
    : loop_(loop),
      route_(std::move(route)),
      main_pid_(main_pid),
      socket_(std::move(socket)),
      limit_(kBurst) {}

NotifyRelay::~NotifyRelay() {
  if (!waiting_.empty()) loop_.remove_fd(socket_.get());
}

Result<std::unique_ptr<NotifyRelay>> NotifyRelay::create(EventLoop& loop, NotifyRoute route,
                                                         pid_t main_pid) {
  UniqueFd socket = TRY(
      wrap(connect_to(route.host_socket), fmt::format("NOTIFY_SOCKET `{}`", route.host_socket)));
  return std::unique_ptr<NotifyRelay>(
      new NotifyRelay(loop, std::move(route), main_pid, std::move(socket)));
}

Result<void> NotifyRelay::send(const std::string& text) {
  iovec part{const_cast<char*>(text.data()), text.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(ucred))> control{};
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_CREDENTIALS;
  header->cmsg_len = CMSG_LEN(sizeof(ucred));
  const ucred sender{main_pid_, getuid(), getgid()};
  std::memcpy(CMSG_DATA(header), &sender, sizeof sender);
  if (sendmsg(socket_.get(), &message, MSG_NOSIGNAL) >= 0) return {};
  if (errno == EAGAIN) return sys_error("notify a manager whose queue is full");
  // In its own name, where another's is not allowed, or that process has ended.
  message.msg_control = nullptr;
  message.msg_controllen = 0;
  if (sendmsg(socket_.get(), &message, MSG_NOSIGNAL) >= 0) return {};
  return sys_error(fmt::format("notify `{}`", route_.host_socket));
}

// unix(7): max_dgram_qlen datagrams wait for who does not read them, ten by default.
Result<void> NotifyRelay::send_surely(std::string text) {
  if (waiting_.empty()) {
    auto sent = send(text);
    if (sent || sent.error().sys_errno != EAGAIN) return sent;
    TRY(loop_.add_fd(socket_.get(), EPOLLOUT, [this](uint32_t) { go_on(); }));
  }
  waiting_.push_back(std::move(text));
  return {};
}

void NotifyRelay::go_on() {
  while (!waiting_.empty()) {
    const auto sent = send(waiting_.front());
    if (!sent && sent.error().sys_errno == EAGAIN) return;
    if (!sent) log_warning("{}, ignoring", sent.error().message);
    waiting_.pop_front();
  }
  loop_.remove_fd(socket_.get());
}

Result<void> NotifyRelay::tell(const std::vector<std::string>& lines) {
  std::string text;
  bool ready = false;
  for (const std::string& line : lines) {
    if (std::none_of(kRelayed.begin(), kRelayed.end(),
                     [&](std::string_view name) { return line.starts_with(name); }))
      continue;
    text += line + "\n";
    ready |= line == "READY=1";
  }
  const bool first = ready && !ready_;
  ready_ |= ready;
  if (text.empty() || (!limit_.allow() && !first)) return {};
  if (!first) {
    auto sent = send(text);
    if (sent || sent.error().sys_errno != EAGAIN) return sent;
    return {};
  }
  TRY(send_surely(std::move(text)));
  if (route_.adds_main_pid) TRY(send_surely(fmt::format("MAINPID={}\n", main_pid_)));
  return {};
}

}  // namespace kiln::runtime
