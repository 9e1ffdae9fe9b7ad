// SPDX-License-Identifier: Apache-2.0
#include "vmm/api/fs_server.h"

#include <sys/socket.h>

#include <nlohmann/json.hpp>

#include "base/format.h"
#include "base/json.h"
#include "base/unix_socket.h"
#include "vmm/api/confined_process.h"
#include "vmm/api/fs_control.h"

namespace kiln::vmm {
namespace {

constexpr timeval kPatience{10, 0};

}  // namespace

struct FsServer::Impl {
  ChildProcess process;
  UniqueFd control;
  UniqueFd vhost_user;
  std::string end;  // set once it has ended

  Result<void> call(const Json& message, std::span<const int> fds) {
    const auto sent = send_with_fds(control.get(), dump_json(message), fds);
    // It may have ended, and said why before that.
    if (!sent && sent.error().sys_errno != EPIPE && sent.error().sys_errno != ECONNRESET)
      return sent;
    auto answer = receive_with_fds(control.get(), kMaxFsMessageBytes);
    if (!answer && answer.error().sys_errno == ECONNRESET)
      answer = receive_with_fds(control.get(), kMaxFsMessageBytes);
    if (!answer) return make_error(ErrorKind::kUnavailable, "the fs server does not answer");
    if (answer->bytes.empty())
      return make_error(ErrorKind::kUnavailable, "the fs server has ended");
    const Json parsed = TRY(parse_json(answer->bytes));
    if (!parsed.is_object() || !parsed.contains("error")) return {};
    const Json& error = parsed["error"];
    const int kind = error.value("kind", static_cast<int>(ErrorKind::kUnknown));
    return make_error(static_cast<ErrorKind>(kind), error.value("message", "it failed"));
  }
};

FsServer::FsServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

FsServer::~FsServer() { kill_and_reap(impl_->process); }

Result<std::unique_ptr<FsServer>> FsServer::launch(const std::string& vmm_binary, int log_fd) {
  auto [control_here, control_there] = TRY(socket_pair(SOCK_SEQPACKET));
  auto [vhost_here, vhost_there] = TRY(socket_pair(SOCK_STREAM));
  setsockopt(control_here.get(), SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof kPatience);
  SpawnOptions options;
  options.program = vmm_binary;
  options.argv = {"kiln-vmm", "fs"};
  options.environment = std::vector<std::string>{};
  options.working_directory = std::string("/");  // GCC bug 105651 with a literal
  options.namespaces = vmm_namespaces();
  options.fds = {{log_fd >= 0 ? log_fd : STDERR_FILENO, STDERR_FILENO},
                 {control_there.get(), kFsControlFd},
                 {vhost_there.get(), kFsVhostUserFd}};
  auto impl = std::make_unique<Impl>();
  impl->process = TRY(spawn(options));
  impl->control = std::move(control_here);
  impl->vhost_user = std::move(vhost_here);
  return std::unique_ptr<FsServer>(new FsServer(std::move(impl)));
}

pid_t FsServer::pid() const { return impl_->process.pid; }
int FsServer::pidfd() const { return impl_->process.pidfd.get(); }

std::string FsServer::end() {
  if (impl_->end.empty()) {
    const auto status = wait_child(impl_->process, 0);
    if (!status || !*status) return "kiln-vmm fs still runs";
    impl_->end = describe_end("kiln-vmm fs", **status);
    impl_->process.pidfd.reset();
    impl_->process.pid = -1;
  }
  return impl_->end;
}

int FsServer::vhost_user_fd() const { return impl_->vhost_user.get(); }
void FsServer::close_vhost_user() { impl_->vhost_user.reset(); }

Result<void> FsServer::add_entry(const std::string& name, int fd, const FsEntryOptions& options) {
  const Json message{{"add", name},
                     {"read_only", options.read_only},
                     {"cache", kFsCacheNames[static_cast<size_t>(options.cache)]}};
  return impl_->call(message, std::span(&fd, 1));
}

Result<void> FsServer::remove_entry(const std::string& name) {
  return impl_->call(Json{{"remove", name}}, {});
}

}  // namespace kiln::vmm
