// SPDX-License-Identifier: Apache-2.0
#include "agent/guest/vsock.h"

#include <sys/socket.h>
// After <sys/socket.h>.
#include <linux/vm_sockets.h>

#include "base/file.h"
#include "base/format.h"
#include "base/log.h"

namespace kiln::agent {
namespace {

constexpr int kBacklog = 128;

class VsockListener : public StreamListener {
 public:
  explicit VsockListener(UniqueFd fd) : fd_(std::move(fd)) {}
  int fd() const override { return fd_.get(); }

  Result<UniqueFd> accept() override {
    sockaddr_vm peer{};
    socklen_t size = sizeof peer;
    UniqueFd connection(retry_eintr([&] {
      return accept4(fd_.get(), reinterpret_cast<sockaddr*>(&peer), &size,
                     SOCK_CLOEXEC | SOCK_NONBLOCK);
    }));
    if (!connection) {
      const bool nobody = errno == EAGAIN || errno == ECONNABORTED || errno == ECONNRESET;
      if (nobody) return UniqueFd();
      return sys_error("accept a vsock connection");
    }
    if (peer.svm_cid != VMADDR_CID_HOST) {
      if (strangers_.allow())
        log_warning("refused a vsock connection from CID {}, ignoring", peer.svm_cid);
      return UniqueFd();
    }
    return connection;
  }

 private:
  UniqueFd fd_;
  RateLimit strangers_{5};
};

Result<UniqueFd> vsock_socket(int flags) {
  UniqueFd fd(socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
  if (!fd) return sys_error("create a vsock socket");
  return fd;
}

Result<UniqueFd> dial(uint32_t port, int flags) {
  UniqueFd fd = TRY(vsock_socket(flags));
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = VMADDR_CID_HOST;
  address.svm_port = port;
  if (retry_eintr([&] {
        return connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
      }) != 0 &&
      errno != EINPROGRESS)
    return sys_error(fmt::format("connect to vsock port {} of the host", port));
  return fd;
}

}  // namespace

Result<UniqueFd> dial_host(uint32_t port) { return dial(port, 0); }

Result<UniqueFd> begin_dial_host(uint32_t port) { return dial(port, SOCK_NONBLOCK); }

Result<std::unique_ptr<StreamListener>> listen_to_host(uint32_t port) {
  UniqueFd fd = TRY(vsock_socket(SOCK_NONBLOCK));
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = VMADDR_CID_ANY;
  address.svm_port = port;
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return sys_error(fmt::format("bind vsock port {}", port));
  if (listen(fd.get(), kBacklog) != 0) return sys_error(fmt::format("listen on vsock {}", port));
  return std::unique_ptr<StreamListener>(std::make_unique<VsockListener>(std::move(fd)));
}

}  // namespace kiln::agent
