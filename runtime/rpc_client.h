// SPDX-License-Identifier: Apache-2.0
// Requests with ids, their answers, and events, over one connection: to the guest agent, and from
// a command to the monitor. Both speak the envelopes of agent/protocol.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "agent/protocol/messages.h"
#include "base/error.h"
#include "base/event_loop.h"
#include "base/frame_connection.h"

namespace kiln::runtime {

// What arrives is checked by agent/protocol; the first message that breaks the protocol ends the
// connection. Used by the event loop's thread.
class RpcClient {
 public:
  struct Options {
    std::string peer;  // "guest agent": for messages
    size_t max_message_bytes = protocol::kMaxReplyBytes;
    // An error breaks the protocol.
    std::function<Result<void>(const protocol::Event&)> on_event;
    // Once, after all pending requests have been answered with the same error.
    std::function<void(const Error&)> on_closed;
  };
  // kDeadlineExceeded after the timeout; a late answer is then dropped.
  using ReplyCallback = std::function<void(Result<Json>)>;

  static Result<std::unique_ptr<RpcClient>> create(EventLoop& loop, UniqueFd socket,
                                                   Options options);
  ~RpcClient();
  RpcClient(const RpcClient&) = delete;
  RpcClient& operator=(const RpcClient&) = delete;

  // `timeout_ms` 0: none.
  void request(const std::string& method, Json params, int64_t timeout_ms, ReplyCallback callback);
  // The same, and runs the loop until the answer is there. Not from within a callback.
  Result<Json> call(const std::string& method, Json params, int64_t timeout_ms);
  bool closed() const { return closed_; }

 private:
  struct Pending {
    std::string method;
    ReplyCallback callback;
    std::optional<EventLoop::TimerId> timer;
    bool expired = false;  // stays known, so that a late answer is no protocol error
  };

  RpcClient(EventLoop& loop, Options options) : loop_(loop), options_(std::move(options)) {}
  void handle(const std::string& payload);
  Result<void> handle_reply(protocol::Reply reply);
  void expire(uint64_t id);
  void fail(const Error& error);

  EventLoop& loop_;
  Options options_;
  std::unique_ptr<FrameConnection> connection_;
  std::map<uint64_t, Pending> pending_;
  uint64_t next_id_ = 1;
  bool closed_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace kiln::runtime
