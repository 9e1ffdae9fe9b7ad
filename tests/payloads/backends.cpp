// SPDX-License-Identifier: Apache-2.0
#include "tests/payloads/backends.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <vector>

#include "base/file.h"
#include "base/unix_socket.h"

namespace kiln::vmm {
namespace {

constexpr int kPatienceMs = 30'000;

Result<void> set_interface(const char* name) {
  const UniqueFd socket_fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket_fd) return sys_error("create a socket");
  ifreq request{};
  std::strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  inet_pton(AF_INET, "10.0.2.2", &address.sin_addr);
  std::memcpy(&request.ifr_addr, &address, sizeof address);
  if (ioctl(socket_fd.get(), SIOCSIFADDR, &request) != 0) return sys_error("set the tap's address");
  inet_pton(AF_INET, "255.255.255.0", &address.sin_addr);
  std::memcpy(&request.ifr_netmask, &address, sizeof address);
  if (ioctl(socket_fd.get(), SIOCSIFNETMASK, &request) != 0) return sys_error("set the tap's mask");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (ioctl(socket_fd.get(), SIOCSIFFLAGS, &request) != 0) return sys_error("set the tap up");
  return {};
}

// One more piece of at most 4 KiB; an error is a peer that is silent for too long.
Result<std::string> receive_some(int fd) {
  pollfd polled{fd, POLLIN, 0};
  if (poll(&polled, 1, kPatienceMs) <= 0)
    return make_error(ErrorKind::kDeadlineExceeded, "the guest is silent");
  std::string piece(4096, '\0');
  const ssize_t got = read(fd, piece.data(), piece.size());
  if (got < 0) return sys_error("read from the guest");
  piece.resize(static_cast<size_t>(got));
  return piece;
}

}  // namespace

TemporaryDirectory::TemporaryDirectory() {
  std::string pattern = (std::filesystem::temp_directory_path() / "kiln-payload-XXXXXX").string();
  // The confined kiln-vmm is another user, and connects to sockets in here.
  if (mkdtemp(pattern.data()) != nullptr && chmod(pattern.c_str(), 0755) == 0) path_ = pattern;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
}

Result<UniqueFd> make_disk(const std::string& directory, uint64_t size, bool read_only) {
  const std::string path = directory + (read_only ? "/read-only.img" : "/disk.img");
  UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file) return sys_error("create a disk");
  if (ftruncate(file.get(), static_cast<off_t>(size)) != 0) return sys_error("grow a disk");
  if (!read_only) return file;
  UniqueFd again(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!again) return sys_error("open a disk");
  return again;
}

EchoServer::EchoServer(UniqueFd listener, UniqueFd wake)
    : listener_(std::move(listener)), wake_(std::move(wake)), thread_([this] { run(); }) {}

Result<std::unique_ptr<EchoServer>> EchoServer::listen(const std::string& path) {
  UniqueFd listener = TRY(listen_unix(path));
  // Whatever the umask is: the confined kiln-vmm is another user.
  if (chmod(path.c_str(), 0666) != 0) return sys_error("open the echo server to all");
  UniqueFd wake(eventfd(0, EFD_CLOEXEC));
  if (!wake) return sys_error("create an eventfd");
  return std::unique_ptr<EchoServer>(new EchoServer(std::move(listener), std::move(wake)));
}

EchoServer::~EchoServer() {
  eventfd_write(wake_.get(), 1);
  thread_.join();
}

void EchoServer::run() {
  std::vector<UniqueFd> clients;
  while (true) {
    std::vector<pollfd> polled{{wake_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
    for (const UniqueFd& client : clients) polled.push_back({client.get(), POLLIN, 0});
    if (poll(polled.data(), polled.size(), -1) < 0 && errno != EINTR) return;
    if (polled[0].revents != 0) return;
    for (size_t i = polled.size() - 1; i >= 2; --i) {
      if (polled[i].revents == 0) continue;
      char bytes[4096];
      const ssize_t got = read(polled[i].fd, bytes, sizeof bytes);
      if (got <= 0 || send(polled[i].fd, bytes, static_cast<size_t>(got), MSG_NOSIGNAL) != got)
        clients.erase(clients.begin() + static_cast<ptrdiff_t>(i - 2));
    }
    if (polled[1].revents == 0) continue;
    if (auto client = accept_unix(listener_.get())) clients.push_back(std::move(*client));
  }
}

Result<std::string> ask_guest(const std::string& uds_path, uint32_t port,
                              const std::string& request, size_t answer_size) {
  const UniqueFd socket_fd = TRY(connect_unix(uds_path));
  const std::string greeting = "CONNECT " + std::to_string(port) + "\n";
  const auto say = [&](const std::string& text) {
    return send(socket_fd.get(), text.data(), text.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(text.size());
  };
  if (!say(greeting)) return sys_error("greet the guest");
  std::string heard;
  size_t end = std::string::npos;
  while ((end = heard.find('\n')) == std::string::npos) {
    const std::string piece = TRY(receive_some(socket_fd.get()));
    if (piece.empty()) return make_error(ErrorKind::kUnavailable, "the guest refused");
    heard += piece;
  }
  if (!heard.starts_with("OK ")) return make_error(ErrorKind::kDataLoss, heard);
  heard.erase(0, end + 1);
  if (!say(request)) return sys_error("send to the guest");
  while (heard.size() < answer_size) {
    const std::string piece = TRY(receive_some(socket_fd.get()));
    if (piece.empty()) break;
    heard += piece;
  }
  return heard;
}

Result<UniqueFd> make_tap() {
  UniqueFd tap(open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!tap) return sys_error("open /dev/net/tun");
  ifreq request{};
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  std::strncpy(request.ifr_name, "payload%d", IFNAMSIZ - 1);
  if (ioctl(tap.get(), TUNSETIFF, &request) != 0) return sys_error("make a tap");
  TRY(set_interface(request.ifr_name));
  return tap;
}

}  // namespace kiln::vmm
