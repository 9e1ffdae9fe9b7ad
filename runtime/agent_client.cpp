// SPDX-License-Identifier: Apache-2.0
#include "runtime/agent_client.h"

#include "base/format.h"

namespace kiln::runtime {

Result<std::unique_ptr<AgentClient>> AgentClient::create(EventLoop& loop, UniqueFd socket,
                                                         Callbacks callbacks) {
  std::unique_ptr<AgentClient> client(new AgentClient(std::move(callbacks)));
  AgentClient* self = client.get();
  RpcClient::Options options;
  options.peer = "guest agent";
  options.on_event = [self](const protocol::Event& event) { return self->handle_event(event); };
  options.on_closed = [self](const Error& error) {
    if (self->callbacks_.on_closed) self->callbacks_.on_closed(error);
  };
  client->rpc_ = TRY(RpcClient::create(loop, std::move(socket), std::move(options)));
  return client;
}

Result<void> AgentClient::handle_event(const protocol::Event& event) {
  if (event.name == "hello") {
    if (greeted_) return invalid_argument("a second hello");
    const auto hello = TRY(protocol::from_json<protocol::Hello>(event.params));
    if (hello.protocol_version != protocol::kProtocolVersion) {
      return invalid_argument(fmt::format("version {} of the protocol, not {}",
                                          hello.protocol_version, protocol::kProtocolVersion));
    }
    greeted_ = true;
    if (callbacks_.on_hello) callbacks_.on_hello(hello);
    return {};
  }
  if (!greeted_) return invalid_argument("no hello first");
  if (event.name == "exit") {
    const auto exit = TRY(protocol::from_json<protocol::ExitEvent>(event.params));
    if (callbacks_.on_exit) callbacks_.on_exit(exit);
    return {};
  }
  if (event.name == "oom") {
    const auto oom = TRY(protocol::from_json<protocol::OomEvent>(event.params));
    if (callbacks_.on_oom) callbacks_.on_oom(oom);
    return {};
  }
  if (event.name == "notify") {
    const auto notify = TRY(protocol::from_json<protocol::NotifyEvent>(event.params));
    if (callbacks_.on_notify) callbacks_.on_notify(notify);
    return {};
  }
  return invalid_argument("an unknown event");
}

}  // namespace kiln::runtime
