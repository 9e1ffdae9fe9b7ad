// SPDX-License-Identifier: Apache-2.0
// ttrpc's frames (github.com/containerd/ttrpc, PROTOCOL.md) over a stream socket in an event loop.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/send_queue.h"
#include "base/unique_fd.h"

namespace kiln::ttrpc {

constexpr size_t kMaxDataBytes = size_t{4} << 20;
constexpr size_t kHeaderBytes = 10;

enum class MessageType : uint8_t { kRequest = 1, kResponse = 2, kData = 3 };

constexpr uint8_t kRemoteClosed = 1;  // the sender sends nothing more on this stream
constexpr uint8_t kRemoteOpen = 2;    // of a request: data follows
constexpr uint8_t kNoData = 4;        // of data: there is none, which is not the same as empty

struct Message {
  uint32_t stream = 0;
  uint8_t type = 0;  // MessageType, or what the peer says
  uint8_t flags = 0;
  std::string data;
  bool too_long = false;  // more than kMaxDataBytes, which have been skipped
};

// Used by the event loop's thread. A peer that does not read what we send is not read either, so
// that it cannot make us store without end.
class MessageConnection {
 public:
  // It may destroy the connection.
  using MessageCallback = std::function<void(Message message)>;
  // Once; it may destroy the connection.
  using ClosedCallback = std::function<void(Error reason)>;

  static Result<std::unique_ptr<MessageConnection>> create(EventLoop& loop, UniqueFd socket,
                                                           MessageCallback on_message,
                                                           ClosedCallback on_closed);
  ~MessageConnection();
  MessageConnection(const MessageConnection&) = delete;
  MessageConnection& operator=(const MessageConnection&) = delete;

  // `data`: at most kMaxDataBytes. Queued when the socket is full; dropped when it is closed.
  void send(uint32_t stream, MessageType type, uint8_t flags, std::string_view data);
  size_t queued_bytes() const { return outgoing_.size(); }

 private:
  MessageConnection(EventLoop& loop, UniqueFd socket, MessageCallback on_message,
                    ClosedCallback on_closed);
  void handle(uint32_t events);
  void flush();
  void read_some();
  void take(std::string_view bytes);
  void take_header();
  void close(Error reason);

  EventLoop& loop_;
  UniqueFd socket_;
  std::shared_ptr<const MessageCallback> on_message_;
  ClosedCallback on_closed_;
  std::string header_;  // up to kHeaderBytes of the message that comes
  Message incoming_;    // valid once header_ is complete
  size_t missing_ = 0;  // of its data
  SendQueue outgoing_;
  uint32_t watched_ = 0;  // EPOLL*
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace kiln::ttrpc
