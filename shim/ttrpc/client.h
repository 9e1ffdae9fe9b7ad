// SPDX-License-Identifier: Apache-2.0
// A ttrpc client: many calls in flight on one connection.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/event_loop.h"
#include "shim/ttrpc/message_connection.h"
#include "shim/ttrpc/server.h"

namespace kiln::ttrpc {

// Used by the event loop's thread.
class Client {
 public:
  // Once, unless the client is destroyed before. A status's code becomes the error's kind;
  // kUnavailable when the connection ends first, kDeadlineExceeded after the timeout.
  using Callback = std::function<void(Result<std::string> response)>;
  struct Outgoing {
    std::string service;
    std::string method;
    std::string payload;
    int64_t timeout_ms = 0;  // 0: none
    Metadata metadata = {};
  };
  struct StreamCallbacks {
    std::function<void(std::string data)> on_data;
    std::function<void(Result<void> outcome)> on_end;  // once
  };

  // `on_closed`: once, after every call that was under way has been answered; it may destroy the
  // client, and so may every other callback.
  static Result<std::unique_ptr<Client>> create(EventLoop& loop, UniqueFd socket,
                                                std::function<void(const Error&)> on_closed);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void call(const Outgoing& request, Callback callback);

  // A call whose data follows by send(); returns the stream's id.
  uint32_t open_stream(const Outgoing& request, StreamCallbacks callbacks);
  void send(uint32_t stream, std::string_view data);
  void end_sending(uint32_t stream);

  bool closed() const { return closed_; }

 private:
  struct Pending {
    Callback callback;          // of a unary call
    StreamCallbacks callbacks;  // of a stream
    EventLoop::TimerId timer = 0;
  };

  explicit Client(EventLoop& loop) : loop_(loop) {}
  uint32_t start(const Outgoing& request, uint8_t flags, Pending pending);
  void handle(Message message);
  void finish(uint32_t stream, const Result<std::string>& response);
  void finish_later(uint32_t stream, const Result<std::string>& response);
  static void tell(const Pending& pending, const Result<std::string>& response);
  void close(const Error& reason);

  EventLoop& loop_;
  std::unique_ptr<MessageConnection> connection_;
  std::function<void(const Error&)> on_closed_;
  std::map<uint32_t, Pending> pending_;
  uint32_t next_stream_ = 1;
  bool closed_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace kiln::ttrpc
