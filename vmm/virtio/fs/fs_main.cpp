// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/fs/fs_main.h"

#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <nlohmann/json.hpp>

#include "base/event_loop.h"
#include "base/format.h"
#include "base/json.h"
#include "base/log.h"
#include "base/process.h"
#include "base/unix_socket.h"
#include "vmm/api/fs_control.h"
#include "vmm/confine/sandbox.h"
#include "vmm/confine/syscall_filter.h"
#include "vmm/vhost_user/server.h"
#include "vmm/virtio/fs/fs_device.h"

namespace kiln::vmm {
namespace {

// For shares, sockets and what a request opens for its own duration.
constexpr rlim_t kReservedDescriptors = 256;
constexpr rlim_t kMostDescriptors = 65'536;
// By then the guest has booted, or it is slow and pays a few page faults.
constexpr int64_t kSettledMs = 5000;

FuseSession::Limits limits_for_descriptors() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  getrlimit(RLIMIT_NOFILE, &limit);
  const rlim_t usable = std::clamp(limit.rlim_cur, 2 * kReservedDescriptors, kMostDescriptors);
  const size_t half = static_cast<size_t>(usable - kReservedDescriptors) / 2;
  return {half, half};
}

Result<void> change_shares(FuseSession& session, ReceivedMessage& message) {
  const Json request = TRY(parse_json(message.bytes));
  if (!request.is_object()) return invalid_argument("not a request");
  if (request.contains("remove") && request["remove"].is_string())
    return session.remove_entry(request["remove"].get<std::string>());
  if (!request.contains("add") || !request["add"].is_string() || message.fds.size() != 1)
    return invalid_argument("neither a share to add nor one to remove");
  FsEntryOptions options;
  options.read_only = request.value("read_only", false);
  const std::string cache = request.value("cache", "auto");
  const auto* name = std::find(std::begin(kFsCacheNames), std::end(kFsCacheNames), cache);
  if (name == std::end(kFsCacheNames))
    return invalid_argument(format("unknown cache policy `{}`", cache));
  options.cache = static_cast<FsCache>(name - std::begin(kFsCacheNames));
  return session.add_entry(request["add"].get<std::string>(), std::move(message.fds.front()),
                           options);
}

// False: the owner has gone.
bool answer(int control, const Result<void>& done) {
  Json message = Json::object();
  if (!done) {
    message["error"] = {{"kind", static_cast<int>(done.error().kind)},
                        {"message", done.error().message}};
  }
  return send_with_fds(control, dump_json(message), {}).has_value();
}

// False: the owner has gone.
bool serve_owner(FuseSession& session, int control) {
  auto message = receive_with_fds(control, kMaxFsMessageBytes);
  if (message && message->bytes.empty()) return false;
  Result<void> done;
  if (message) {
    done = change_shares(session, *message);
  } else {
    done = tl::unexpected(std::move(message.error()));
  }
  return answer(control, done);
}

Result<void> serve(int control) {
  umask(0);  // the guest's kernel has applied its caller's
  Confinement confinement = fs_confinement();
  confinement.owner_fd = control;
  TRY(enter(confinement));
  const auto loop = TRY(EventLoop::create());
  const auto session = TRY(FuseSession::create(limits_for_descriptors()));
  FsDevice device(*loop, *session);
  const auto server = TRY(
      VhostUserServer::create(*loop, UniqueFd(kFsVhostUserFd), device, [](const Result<void>& why) {
        // The front-end's end is followed by the owner's; that is what ends this process.
        if (!why) log_error("fs: {}", why.error().message);
      }));
  TRY(loop->add_fd(control, EPOLLIN, [&](uint32_t) {
    if (!serve_owner(*session, control)) loop->stop();
  }));
  loop->add_timer(kSettledMs, release_program_pages);
  if (!kSanitized) TRY(install_filter(ThreadKind::kFs));
  return loop->run();
}

}  // namespace

int fs_main() {
  signal(SIGPIPE, SIG_IGN);
  const UniqueFd control(kFsControlFd);
  const auto served = serve(control.get());
  if (served) return 0;
  log_error("fs: {}", served.error().message);
  // The answer to whatever the owner asks next.
  answer(control.get(), served);
  return 1;
}

}  // namespace kiln::vmm
