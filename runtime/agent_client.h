// SPDX-License-Identifier: Apache-2.0
// The host's end of the control connection to the guest agent.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "agent/protocol/messages.h"
#include "runtime/rpc_client.h"

namespace kiln::runtime {

// Who answers the requests of agent/protocol: the guest's agent, or somebody who passes them on.
class Agent {
 public:
  virtual ~Agent() = default;
  // `timeout_ms` 0: none.
  virtual void request(const std::string& method, Json params, int64_t timeout_ms,
                       RpcClient::ReplyCallback callback) = 0;
};

// Everything that arrives comes from the guest: see RpcClient. Used by the event loop's thread.
class AgentClient : public Agent {
 public:
  struct Callbacks {
    std::function<void(const protocol::Hello&)> on_hello;  // once, before any other event
    std::function<void(const protocol::ExitEvent&)> on_exit;
    std::function<void(const protocol::OomEvent&)> on_oom;
    std::function<void(const protocol::NotifyEvent&)> on_notify;
    // Once, after all pending requests have been answered with the same error.
    std::function<void(const Error&)> on_closed;
  };

  static Result<std::unique_ptr<AgentClient>> create(EventLoop& loop, UniqueFd socket,
                                                     Callbacks callbacks);

  void request(const std::string& method, Json params, int64_t timeout_ms,
               RpcClient::ReplyCallback callback) override {
    rpc_->request(method, std::move(params), timeout_ms, std::move(callback));
  }
  bool closed() const { return rpc_->closed(); }

 private:
  explicit AgentClient(Callbacks callbacks) : callbacks_(std::move(callbacks)) {}
  Result<void> handle_event(const protocol::Event& event);

  Callbacks callbacks_;
  bool greeted_ = false;
  std::unique_ptr<RpcClient> rpc_;
};

}  // namespace kiln::runtime
