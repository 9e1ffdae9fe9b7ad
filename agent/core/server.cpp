// SPDX-License-Identifier: Apache-2.0
#include "agent/core/server.h"

#include <sys/utsname.h>

#include <csignal>

#include <nlohmann/json.hpp>

#include "base/format.h"
#include "base/log.h"

namespace kiln::agent {
namespace {

constexpr int64_t kShutdownPatienceMs = 10'000;
// Our last reply is in the vsock device's queue by then; the host that reads it closes sooner.
constexpr int64_t kLastWordsMs = 500;

}  // namespace

Server::Server(EventLoop& loop, Options options)
    : loop_(loop),
      factory_(std::move(options.factory)),
      pod_factory_(std::move(options.pod_factory)),
      guest_(*options.guest),
      run_directory_(std::move(options.run_directory)),
      localhost_dials_(loop) {}

Result<std::unique_ptr<Server>> Server::create(EventLoop& loop, Options options) {
  UniqueFd control = std::move(options.control);
  std::unique_ptr<StreamListener> listener = std::move(options.streams);
  std::unique_ptr<Server> server(new Server(loop, std::move(options)));
  Server* self = server.get();
  // SIGPIPE: a stream whose reader has gone is an error of write. Blocked signals are inherited;
  // whoever starts a program unblocks them.
  TRY(loop.handle_signals({SIGCHLD, SIGPIPE}, [self](const ::signalfd_siginfo& info) {
    if (info.ssi_signo == SIGCHLD) self->reaper_.reap();
  }));
  self->streams_ = TRY(StreamServer::create(
      loop, std::move(listener),
      [self](const protocol::StreamHeader& header, const StreamServer::Opened& opened) {
        self->open_stream(header, opened);
      },
      [self](const protocol::StreamHeader& header) {
        if (const auto entry = self->find(header.container_id)) (*entry)->stream_ended(header);
      }));
  self->control_ = TRY(FrameConnection::create(
      loop, std::move(control), protocol::kMaxRequestBytes,
      [self](const std::string& payload) { self->handle_frame(payload); },
      [self](const Error& reason) { self->control_closed(reason); }));
  utsname system{};
  uname(&system);
  self->tell("hello", protocol::to_json(protocol::Hello{protocol::kProtocolVersion, KILN_VERSION,
                                                        static_cast<const char*>(system.release)}));
  return server;
}

Server::~Server() {
  if (shutdown_timer_ != 0) loop_.cancel_timer(shutdown_timer_);
}

void Server::handle_frame(const std::string& payload) {
  const auto request = protocol::decode_request(payload);
  if (!request) {
    // Without an id there is nobody to answer, and the host is not what we think it is.
    log_error("{}", request.error().message);
    return power_off();
  }
  Answer answer = dispatch(*request);
  if (!answer) return reply(request->id, tl::unexpected(std::move(answer.error())));
  if (*answer) reply(request->id, std::move(**answer));
}

void Server::reply(uint64_t id, Result<Json> result) {
  protocol::Reply answer;
  answer.id = id;
  if (result) {
    answer.result = std::move(*result);
  } else {
    answer.error = std::move(result.error());
  }
  control_->send(protocol::encode(answer));
}

void Server::tell(const char* event, Json params) {
  control_->send(protocol::encode(protocol::Event{event, std::move(params)}));
}

// The host has ended, or wants the guest to.
void Server::control_closed(const Error& reason) {
  if (!shutdown_done_) log_warning("control connection: {}, powering off", reason.message);
  power_off();
}

void Server::power_off() {
  if (powered_off_) return;
  powered_off_ = true;
  guest_.power_off();
}

Result<ContainerEntry*> Server::find(const std::string& container_id) {
  const auto found = containers_.find(container_id);
  if (found == containers_.end())
    return make_error(ErrorKind::kNotFound, fmt::format("no container `{}`", container_id));
  return found->second.get();
}

void Server::open_stream(const protocol::StreamHeader& header, const StreamServer::Opened& opened) {
  if (const auto port = protocol::port_number(header.stream)) {
    if (!is_pod(header.container_id))
      return opened(
          make_error(ErrorKind::kNotFound, fmt::format("no pod `{}`", header.container_id)));
    return localhost_dials_.dial(
        *port, [opened](Result<UniqueFd> socket) { opened(ends_of_socket(std::move(socket))); });
  }
  auto entry = find(header.container_id);
  if (!entry) return opened(tl::unexpected(std::move(entry.error())));
  (*entry)->take_stream(header, opened);
}

void Server::finish_shutdown() {
  if (shutdown_timer_ != 0) loop_.cancel_timer(shutdown_timer_);
  shutdown_timer_ = 0;
  for (const auto& [id, entry] : containers_) {
    if (const auto destroyed = entry->destroy(); !destroyed)
      log_warning("destroy `{}`: {}, ignoring", id, destroyed.error().message);
  }
  containers_.clear();
  shutdown_done_ = true;
  auto unmounted = guest_.unmount_share();
  if (unmounted) {
    reply(*shutdown_id_, Json::object());
  } else {
    reply(*shutdown_id_, tl::unexpected(std::move(unmounted.error())));
  }
  // The host closes the connection once it has read the reply; we do not wait for it for ever.
  control_->end_sending();
  shutdown_timer_ = loop_.add_timer(kLastWordsMs, [this] {
    shutdown_timer_ = 0;
    power_off();
  });
}

void Server::continue_shutdown() {
  if (!shutdown_id_ || shutdown_done_) return;
  for (const auto& [id, entry] : containers_)
    if (!entry->ended()) return;
  finish_shutdown();
}

Server::Answer Server::shutdown(uint64_t id, const Json& params) {
  if (!params.empty()) return invalid_argument("shutdown takes no parameters");
  for (const auto& [name, entry] : containers_) {
    if (const auto killed = entry->kill_all(); !killed)
      log_warning("kill `{}`: {}, ignoring", name, killed.error().message);
  }
  shutdown_id_ = id;
  shutdown_timer_ = loop_.add_timer(kShutdownPatienceMs, [this] {
    shutdown_timer_ = 0;
    log_warning("shutdown: processes survive SIGKILL, ignoring");
    finish_shutdown();
  });
  // Not inside an entry's own callback.
  loop_.defer([this] { continue_shutdown(); });
  return std::optional<Json>();
}

}  // namespace kiln::agent
