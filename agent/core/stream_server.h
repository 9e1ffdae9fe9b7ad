// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "agent/core/guest.h"
#include "agent/core/stream_relay.h"
#include "agent/protocol/messages.h"
#include "base/event_loop.h"

namespace kiln::agent {

// Takes the host's stream connections: one header frame each, one answer, then raw bytes.
class StreamServer {
 public:
  // Our ends of the stream that the header names, told at once or later.
  using Opened = std::function<void(Result<StreamEnds> ends)>;
  using Resolver = std::function<void(const protocol::StreamHeader& header, Opened opened)>;
  using EndedCallback = std::function<void(const protocol::StreamHeader& header)>;

  static Result<std::unique_ptr<StreamServer>> create(EventLoop& loop,
                                                      std::unique_ptr<StreamListener> listener,
                                                      Resolver resolve, EndedCallback ended);
  ~StreamServer();
  StreamServer(const StreamServer&) = delete;
  StreamServer& operator=(const StreamServer&) = delete;

  size_t open_streams() const { return relays_.size(); }

 private:
  struct Handshake {
    UniqueFd connection;
    std::string received;
    EventLoop::TimerId timer = 0;
  };

  StreamServer(EventLoop& loop, std::unique_ptr<StreamListener> listener, Resolver resolve,
               EndedCallback ended);
  Result<void> listen();
  void accept();
  void pause(std::string_view reason);
  void read_header(uint64_t id);
  // Whether the whole header frame is there; an error ends the connection without an answer.
  static Result<bool> receive(Handshake& handshake);
  void answer(uint64_t id);
  void opened(uint64_t id, const protocol::StreamHeader& header, Result<StreamEnds> ends);
  Result<void> begin(uint64_t id, UniqueFd connection, const protocol::StreamHeader& header,
                     StreamEnds ends);
  void drop(uint64_t id);

  EventLoop& loop_;
  std::unique_ptr<StreamListener> listener_;
  Resolver resolve_;
  EndedCallback ended_;
  uint64_t next_id_ = 1;
  std::map<uint64_t, Handshake> handshakes_;
  std::map<uint64_t, UniqueFd> opening_;
  std::map<uint64_t, std::unique_ptr<StreamRelay>> relays_;
  EventLoop::TimerId pause_timer_ = 0;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace kiln::agent
