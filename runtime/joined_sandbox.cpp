// SPDX-License-Identifier: Apache-2.0
#include "runtime/joined_sandbox.h"

#include <nlohmann/json.hpp>

#include "base/format.h"
#include "base/log.h"
#include "base/unix_socket.h"

namespace kiln::runtime {
namespace {

constexpr int64_t kJoinTimeoutMs = 30'000;
constexpr int64_t kNetworkTimeoutMs = 40'000;
constexpr int64_t kLeaveTimeoutMs = 40'000;
constexpr uint64_t kFdRequestId = 1;

Result<std::string> text_in(const Json& answer, const char* key) {
  try {
    return answer.at(key).get<std::string>();
  } catch (const Json::exception& error) {
    return make_error(ErrorKind::kInternal, fmt::format("the sandbox's answer: {}", error.what()));
  }
}

}  // namespace

// The owner's monitor passes on what concerns this container, and nothing else.
class JoinedSandbox::RemoteAgent : public Agent {
 public:
  RemoteAgent(RpcClient& rpc, std::string container_id)
      : rpc_(rpc), container_id_(std::move(container_id)) {}
  void request(const std::string& method, Json params, int64_t timeout_ms,
               RpcClient::ReplyCallback callback) override {
    rpc_.request("agent",
                 {{"container", container_id_},
                  {"method", method},
                  {"params", std::move(params)},
                  {"timeout", timeout_ms}},
                 timeout_ms, std::move(callback));
  }

 private:
  RpcClient& rpc_;
  std::string container_id_;
};

JoinedSandbox::JoinedSandbox(EventLoop& loop, std::string container_id, SandboxCallbacks callbacks)
    : loop_(loop), container_id_(std::move(container_id)), callbacks_(std::move(callbacks)) {}

Result<std::unique_ptr<JoinedSandbox>> JoinedSandbox::join(EventLoop& loop,
                                                           const std::string& owner,
                                                           const std::string& container_id,
                                                           SandboxCallbacks callbacks) {
  std::unique_ptr<JoinedSandbox> sandbox(
      new JoinedSandbox(loop, container_id, std::move(callbacks)));
  JoinedSandbox* self = sandbox.get();
  self->control_path_ = owner + "/control.sock";
  RpcClient::Options options;
  options.peer = "the sandbox's monitor";
  options.on_event = [self](const protocol::Event& event) { return self->handle_event(event); };
  options.on_closed = [self](const Error&) {
    if (self->callbacks_.on_lost)
      self->callbacks_.on_lost(
          make_error(ErrorKind::kUnavailable, "the container that made the sandbox has ended")
              .value());
  };
  self->rpc_ =
      TRY(RpcClient::create(loop, TRY(connect_unix(self->control_path_)), std::move(options)));
  const Json answer = TRY(self->rpc_->call("join", {{"container", container_id}}, kJoinTimeoutMs));
  try {
    self->prefix_ = answer.at("prefix").get<std::string>();
    self->vsock_path_ = answer.at("vsock").get<std::string>();
  } catch (const Json::exception& error) {
    return make_error(ErrorKind::kInternal, fmt::format("join a sandbox: {}", error.what()));
  }
  self->agent_ = std::make_unique<RemoteAgent>(*self->rpc_, container_id);
  return sandbox;
}

Result<Json> JoinedSandbox::ask_with(int fd, const std::string& method, Json params) {
  params["container"] = container_id_;
  const UniqueFd socket = TRY(connect_unix(control_path_));
  const protocol::Request request{kFdRequestId, method, std::move(params)};
  TRY(send_frame(socket.get(), protocol::encode(request), std::array{fd}));
  const std::string payload = TRY(receive_frame(socket.get(), protocol::kMaxReplyBytes));
  protocol::FromAgent answer = TRY(protocol::decode_from_agent(payload));
  if (!answer.reply) return make_error(ErrorKind::kInternal, method + ": no answer");
  if (answer.reply->error) return tl::unexpected(std::move(*answer.reply->error));
  return std::move(answer.reply->result);
}

Result<std::string> JoinedSandbox::add_share(const Share& share) {
  const Json answer = TRY(wrap(ask_with(share.fd.get(), "share",
                                        {{"entry", share.entry},
                                         {"source", share.source},
                                         {"readOnly", share.read_only},
                                         {"sameForAll", share.same_for_all}}),
                               fmt::format("share `{}`", share.source)));
  return text_in(answer, "entry");
}

Result<std::string> JoinedSandbox::add_drive(const Disk& disk) {
  const Json answer =
      TRY(wrap(ask_with(disk.fd.get(), "drive", {{"drive", disk.id}, {"readOnly", disk.read_only}}),
               fmt::format("disk `{}`", disk.source)));
  has_drives_ = true;
  return text_in(answer, "drive");
}

void JoinedSandbox::leave(const std::function<void()>& done) {
  rpc_->request("leave", {{"container", container_id_}}, kLeaveTimeoutMs,
                [done](const Result<Json>& left) {
                  if (!left) log_warning("leave the sandbox: {}, ignoring", left.error().message);
                  done();
                });
}

Result<void> JoinedSandbox::handle_event(const protocol::Event& event) {
  if (event.name == "exit") {
    const auto exit = TRY(protocol::from_json<protocol::ExitEvent>(event.params));
    callbacks_.on_exit(exit);
  } else if (event.name == "oom") {
    callbacks_.on_oom(TRY(protocol::from_json<protocol::OomEvent>(event.params)));
  } else if (event.name == "notify") {
    callbacks_.on_notify(TRY(protocol::from_json<protocol::NotifyEvent>(event.params)));
  }
  return {};
}

Result<void> JoinedSandbox::await_interfaces(const std::vector<std::string>& names) {
  TRY(rpc_->call("network", {{"interfaces", names}}, kNetworkTimeoutMs));
  return {};
}

void JoinedSandbox::stop() {
  callbacks_.on_lost = nullptr;
  // Not from within one of its callbacks.
  loop_.defer([rpc = std::shared_ptr<RpcClient>(std::move(rpc_)),
               agent = std::shared_ptr<Agent>(std::move(agent_))] {});
}

}  // namespace kiln::runtime
